"""NO_PROXY as clusters have it."""

import httpx
import pytest

from wenxin_runtime.download.http import http_for
from wenxin_runtime.download.proxies import is_excepted
from wenxin_runtime.download.retrying import Patience
from wenxin_runtime.errors import ConfigError


@pytest.mark.parametrize(
    ("exceptions", "url"),
    [
        ("*", "https://huggingface.co/"),
        ("huggingface.co", "https://huggingface.co/"),
        ("huggingface.co", "https://cdn.huggingface.co/"),
        (".HuggingFace.co", "https://cdn.huggingface.co/"),
        ("*.svc", "http://minio.models.svc/"),
        ("10.0.0.0/8", "http://10.1.2.3:9000/"),
        ("10.1.2.3", "http://10.1.2.3:9000/"),
        ("minio:9000", "http://minio:9000/"),
        ("minio:80", "http://minio/"),
        ("fd00::/8", "http://[fd00::1]/"),
        ("[fd00::1]:9000", "http://[fd00::1]:9000/"),
        ("::1", "http://[::1]/"),
        ("http://minio", "http://minio/"),
    ],
)
def test_an_exception_holds_for_its_host(exceptions: str, url: str) -> None:
    assert is_excepted(httpx.URL(url), ["other", exceptions])


@pytest.mark.parametrize(
    ("exceptions", "url"),
    [
        ("face.co", "https://huggingface.co/"),
        ("10.0.0.0/8", "http://11.1.2.3/"),
        ("10.0.0.0/8", "http://10.example/"),
        ("minio:9000", "http://minio/"),
        ("fd00::/8", "http://[fe80::1]/"),
        ("fd00::/8", "http://10.1.2.3/"),
        ("a:b", "http://a/"),
    ],
)
def test_an_exception_holds_for_no_other_host(exceptions: str, url: str) -> None:
    assert not is_excepted(httpx.URL(url), [exceptions])


class _Nobody:
    origin = httpx.URL("https://host")

    def credentials(self, *_: object) -> dict[str, str]:
        return {}

    def refusal(self, *_: object) -> None:
        return None


@pytest.mark.parametrize("proxy", ["http://[::bad", "socks9://robot:hidden@proxy:1080"])
async def test_a_proxy_that_is_none_is_an_error_of_the_environment(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(ConfigError, match="HTTPS_PROXY") as caught:
        async with http_for(_Nobody(), Patience(1, 1.0), connections=1, stall_seconds=1.0, allow_http_redirects=False):
            pass
    assert "hidden" not in str(caught.value)


async def test_networks_among_the_exceptions_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy:3128")
    monkeypatch.setenv("NO_PROXY", "localhost,10.0.0.0/8,fd00::/8,.svc")
    async with http_for(_Nobody(), Patience(1, 1.0), connections=1, stall_seconds=1.0, allow_http_redirects=False):
        pass
