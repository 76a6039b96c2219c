"""AWS Signature Version 4, as S3 and what speaks like it want it: in headers, for requests without a body.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote, unquote

import httpx

_ALGORITHM = "AWS4-HMAC-SHA256"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Keys:
    """Who signs. The secrets stay out of `repr`."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


def signed(
    method: str,
    url: httpx.URL,
    headers: Mapping[str, str],
    keys: Keys,
    *,
    region: str,
    now: datetime,
    service: str = "s3",
) -> dict[str, str]:
    """Return the headers to add to a request without a body.

    Args:
        method: GET or HEAD.
        url: With its path and query as they will be sent.
        headers: Further ones to sign, such as Range; Host is taken from `url`.
        keys: Who signs.
        region: The bucket's.
        now: In UTC; the server refuses what is 15 minutes off its own clock.
        service: `s3` also signs the (empty) body's hash as a header.
    """
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    added = {"x-amz-date": stamp}
    if service == "s3":
        added["x-amz-content-sha256"] = EMPTY_SHA256
    if keys.session_token:
        added["x-amz-security-token"] = keys.session_token
    names, request = canonical_request(method, url, {**headers, **added})
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    to_sign = "\n".join((_ALGORITHM, stamp, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = f"AWS4{keys.secret_access_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    added["Authorization"] = (
        f"{_ALGORITHM} Credential={keys.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return added


def canonical_request(method: str, url: httpx.URL, headers: Mapping[str, str]) -> tuple[str, str]:
    """Return the names of the signed headers and the text that both sides sign."""
    lower = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
    lower["host"] = url.netloc.decode("ascii")
    names = ";".join(sorted(lower))
    lines = "".join(f"{name}:{lower[name]}\n" for name in sorted(lower))
    path = _encoded(unquote(url.raw_path.partition(b"?")[0].decode("ascii")), safe="/")
    query = "&".join(sorted(f"{_encoded(name)}={_encoded(value)}" for name, value in url.params.multi_items()))
    return names, "\n".join((method, path or "/", query, lines, names, EMPTY_SHA256))


def _encoded(text: str, safe: str = "") -> str:
    return quote(text, safe=safe + "-._~")
