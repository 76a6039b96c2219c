"""The committed CRDs are what the models say, in both places."""

import pytest

from wenxin_operator.api import schema


@pytest.mark.parametrize("folder", schema.FOLDERS, ids=lambda folder: str(folder.relative_to(schema.ROOT)))
def test_the_files_are_up_to_date(folder: schema.Path) -> None:
    written = {path.name: path.read_text() for path in folder.iterdir()}
    expected = {name: schema.render(crd) for name, crd in schema.crds().items()}
    assert written == expected, "run `make crds`"
