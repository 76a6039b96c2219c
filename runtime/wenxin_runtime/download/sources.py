"""SOURCE, the flags and the environment -> the source that speaks for it."""

import re
from collections.abc import Mapping

import httpx

from wenxin_runtime.download import hub, modelscope
from wenxin_runtime.download.http import shown
from wenxin_runtime.download.hub import Hub
from wenxin_runtime.download.listing import Source
from wenxin_runtime.download.modelscope import ModelScope
from wenxin_runtime.download.options import DownloadOptions
from wenxin_runtime.download.s3 import Bucket
from wenxin_runtime.download.sigv4 import Keys
from wenxin_runtime.download.web import Web
from wenxin_runtime.errors import ConfigError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_DEFAULT_REGION = "us-east-1"


def source_of(options: DownloadOptions, environment: Mapping[str, str]) -> Source:
    """Build the source that `options` name.

    Raises:
        ConfigError: SOURCE is malformed, or a variable that it needs.
    """
    try:
        source = _source_of(options, environment)
    except httpx.InvalidURL as error:
        raise ConfigError(f"SOURCE, --mirror or the variable in its place is no URL: {error}") from error
    if source.origin.scheme not in ("https", "http") or not source.origin.host:
        raise ConfigError(f"{shown(source.origin)} must be a URL with https:// or http:// and a host")
    return source


def _source_of(options: DownloadOptions, environment: Mapping[str, str]) -> Source:
    scheme, _, rest = options.source.partition("://")
    if scheme == "hf":
        endpoint = options.mirror or environment.get("HF_ENDPOINT") or hub.ENDPOINT
        return Hub(_repository(options), options.revision, endpoint, environment.get("HF_TOKEN"))
    if scheme == "modelscope":
        endpoint = options.mirror or _with_scheme(environment.get("MODELSCOPE_DOMAIN")) or modelscope.ENDPOINT
        return ModelScope(_repository(options), options.revision, endpoint, environment.get("MODELSCOPE_API_TOKEN"))
    if scheme == "s3":
        return _bucket(options, rest, environment)
    return Web(options.source, environment.get("WENXIN_DOWNLOAD_TOKEN"))


def _repository(options: DownloadOptions) -> str:
    scheme, _, rest = options.source.partition("://")
    if not _REPOSITORY.fullmatch(rest):
        raise ConfigError(
            f"SOURCE must be {scheme}://ORG/NAME, got {options.source!r}; a revision goes into --revision"
        )
    return rest


def _bucket(options: DownloadOptions, rest: str, environment: Mapping[str, str]) -> Bucket:
    bucket, _, prefix = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise ConfigError(f"SOURCE must be s3://BUCKET/PREFIX, got {options.source!r}")
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or _DEFAULT_REGION
    endpoint = options.mirror or environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    base = httpx.URL(endpoint or f"https://s3.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}")
    # A dot in the name would need a certificate for a name of more labels than a wildcard covers.
    virtual = options.s3_addressing == "virtual" or (
        options.s3_addressing == "auto" and endpoint is None and "." not in bucket
    )
    if virtual:
        base = base.copy_with(host=f"{bucket}.{base.host}", path=base.path.rstrip("/") + "/")
    else:
        base = base.copy_with(path=f"{base.path.rstrip('/')}/{bucket}")
    return Bucket(bucket, prefix, base, region, _keys(environment))


def _keys(environment: Mapping[str, str]) -> Keys | None:
    key, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    if bool(key) != bool(secret):
        raise ConfigError("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set together, or neither")
    if not key or not secret:
        return None
    return Keys(key, secret, environment.get("AWS_SESSION_TOKEN") or None)


def _with_scheme(domain: str | None) -> str | None:
    """ModelScope's own client takes a bare host here."""
    return domain if not domain or "://" in domain else f"https://{domain}"
