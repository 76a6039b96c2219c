"""The XML that S3 answers with."""

from dataclasses import dataclass
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET

from wenxin_runtime.errors import InvalidListing

# A size that is no number, and an encoding that expat does not know, are ValueErrors or LookupErrors.
_NO_XML = (ET.ParseError, ValueError, LookupError)


@dataclass(frozen=True, slots=True)
class Entry:
    """One object. `etag` as an answer repeats it, quotes included."""

    key: str
    size: int
    etag: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing; `next_token` asks for the next one, None after the last."""

    entries: tuple[Entry, ...]
    next_token: str | None


def parse_page(body: bytes, source: str) -> Page:
    """Read a ListBucketResult, https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html.

    Raises:
        InvalidListing: it is none.
    """
    try:
        root = ET.fromstring(body)  # noqa: S314 - bounded by the reader, and expat refuses entity bombs
        decode = unquote_plus if _text(root, "EncodingType") == "url" else str
        entries = tuple(
            Entry(decode(_text(item, "Key")), int(_text(item, "Size")), _text(item, "ETag") or None)
            for item in root.findall("{*}Contents")
        )
    except _NO_XML as error:
        raise InvalidListing(f"{source} answers with something that is no listing ({error})") from error
    if not root.tag.endswith("ListBucketResult"):
        raise InvalidListing(f"{source} answers with something that is no listing ({root.tag})")
    more = _text(root, "IsTruncated") == "true"
    return Page(entries, _text(root, "NextContinuationToken") or None if more else None)


def error_code(body: bytes) -> tuple[str, str]:
    """Read an error's code and message; both empty where there is none, as in the answer to a HEAD."""
    try:
        root = ET.fromstring(body)  # noqa: S314 - same
    except _NO_XML:
        return "", ""
    return _text(root, "Code"), _text(root, "Message")


def _text(element: ET.Element, name: str) -> str:
    return element.findtext(f"{{*}}{name}", "")
