from pathlib import Path

import pytest

from e2e.harness.backend import Options
from e2e.harness.errors import NotOursError
from e2e.harness.site import Site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("WENXIN_STATE", str(tmp_path))
    return Site("unit-test")


def test_a_claimed_site_remembers_what_was_asked_for(site: Site) -> None:
    assert site.options() is None
    site.claim(Options(nodes=2, gpus=4, product="NVIDIA-H200"))
    assert site.options() == Options(nodes=2, gpus=4, product="NVIDIA-H200")


def test_an_interrupted_start_is_not_complete(site: Site) -> None:
    site.claim(Options())
    assert not site.is_complete
    site.complete()
    assert site.is_complete


@pytest.mark.parametrize("marker", [None, "", "{}", '{"made_by": "somebody else"}'])
def test_a_folder_of_another_maker_is_left_alone(site: Site, marker: str | None) -> None:
    site.directory.mkdir()
    if marker is not None:
        (site.directory / "cluster.json").write_text(marker)
    with pytest.raises(NotOursError, match="not made by this harness"):
        site.options()


def test_sockets_fit_into_what_unix_allows() -> None:
    longest = Site().directory / "node1" / "kubelet" / "pod-resources" / "1234567890"
    assert len(str(longest)) <= 107
