"""Signatures, against those that AWS publishes."""

from datetime import UTC, datetime

import httpx
import pytest

from wenxin_runtime.download.options import DownloadOptions
from wenxin_runtime.download.sigv4 import Keys, canonical_request, signed
from wenxin_runtime.download.sources import source_of

# https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
S3_KEYS = Keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
S3_TIME = datetime(2013, 5, 24, tzinfo=UTC)
# The signature version 4 test suite.
SUITE_KEYS = Keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
SUITE_TIME = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
UNRESERVED = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize(
    ("path", "headers", "signature"),
    [
        ("test.txt", {"Range": "bytes=0-9"}, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
        ("?lifecycle", {}, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("?prefix=J&max-keys=2", {}, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ],
)
def test_requests_are_signed_as_in_the_manual_of_s3(path: str, headers: dict[str, str], signature: str) -> None:
    url = httpx.URL("https://examplebucket.s3.amazonaws.com/" + path)
    added = signed("GET", url, headers, S3_KEYS, region="us-east-1", now=S3_TIME)
    assert added["Authorization"].endswith(f"Signature={signature}")
    assert added["Authorization"].startswith(
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, SignedHeaders="
    )


@pytest.mark.parametrize(
    ("path", "signature"),
    [
        ("", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("?Param2=value2&Param1=value1", "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"),
        (UNRESERVED, "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f"),
    ],
)
def test_requests_are_signed_as_in_the_test_suite(path: str, signature: str) -> None:
    url = httpx.URL("https://example.amazonaws.com/" + path)
    added = signed("GET", url, {}, SUITE_KEYS, region="us-east-1", now=SUITE_TIME, service="service")
    assert added["Authorization"].endswith(f"SignedHeaders=host;x-amz-date, Signature={signature}")


def test_a_session_token_is_signed_and_shown_nowhere() -> None:
    keys = Keys("AKID", "hidden", "for an hour")
    added = signed("GET", httpx.URL("http://store:9000/b/k"), {}, keys, region="us-east-1", now=S3_TIME)
    assert added["x-amz-security-token"] == "for an hour"
    assert "host;x-amz-content-sha256;x-amz-date;x-amz-security-token" in added["Authorization"]
    assert "hidden" not in repr(keys)
    assert "hour" not in repr(keys)


def test_a_port_and_a_path_with_spaces_are_signed_as_they_are_sent() -> None:
    _, text = canonical_request("GET", httpx.URL("http://store:9000/b/a%20b+c/d"), {})
    assert text.splitlines()[1] == "/b/a%20b%2Bc/d"
    assert "host:store:9000" in text


@pytest.mark.parametrize(
    ("environment", "addressing", "base"),
    [
        ({}, "auto", "https://bucket.s3.us-east-1.amazonaws.com/"),
        ({"AWS_REGION": "cn-north-1"}, "auto", "https://bucket.s3.cn-north-1.amazonaws.com.cn/"),
        ({"AWS_REGION": "eu-west-1"}, "path", "https://s3.eu-west-1.amazonaws.com/bucket"),
        ({"AWS_ENDPOINT_URL": "http://minio:9000"}, "auto", "http://minio:9000/bucket"),
        ({"AWS_ENDPOINT_URL": "http://minio:9000/store/"}, "auto", "http://minio:9000/store/bucket"),
        ({"AWS_ENDPOINT_URL": "https://oss.example.com"}, "virtual", "https://bucket.oss.example.com/"),
    ],
)
def test_a_bucket_stands_in_the_hosts_name_or_in_the_path(
    environment: dict[str, str], addressing: str, base: str, tmp_path: object
) -> None:
    options = DownloadOptions(source="s3://bucket/a/b", directory=tmp_path / "x", s3_addressing=addressing)  # type: ignore[operator]
    assert str(source_of(options, environment).origin) == base
