import pytest

from wenxin_runtime import fixture


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The tiny fixture checkpoint."""
    return fixture.write(tmp_path_factory.mktemp("tiny"))
