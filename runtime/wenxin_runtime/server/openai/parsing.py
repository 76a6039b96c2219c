"""Bytes to a checked request; every error names the field in OpenAI's way (`messages[0].content`)."""

import logging
import re
from typing import Any, TypeVar

import msgspec

from wenxin_runtime.errors import InvalidRequest
from wenxin_runtime.server.openai.schemas import UNSUPPORTED

logger = logging.getLogger(__name__)

_AnyRequest = TypeVar("_AnyRequest", bound=msgspec.Struct)

_WHERE = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_MISSING = re.compile(r"missing required field `(?P<name>[^`]+)`")
_ASKS_NOTHING: tuple[Any, ...] = (None, "", [], {})

# Names of unknown fields that the log has mentioned; bounded, for clients choose the names.
_mentioned: set[str] = set()
_MOST_MENTIONED = 100


def parse(body: bytes, kind: type[_AnyRequest]) -> _AnyRequest:
    """Decode a request.

    Raises:
        InvalidRequest: malformed JSON, a missing field, a wrong type, a value out of range, or a field that this
            server knows but does not support.
    """
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        _refuse_unsupported(fields)
        request = msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from error
    _mention_unknown(fields.keys() - UNSUPPORTED.keys() - set(kind.__struct_fields__))
    return request


def _invalid(message: str) -> InvalidRequest:
    missing = _MISSING.search(message)
    where = _WHERE.search(message)
    path = where["path"].replace("[...]", "") if where else ""  # msgspec does not tell the key of a map
    if missing:
        path = ".".join(filter(None, (path, missing["name"])))
        return InvalidRequest(f"{path} is required", param=path)
    reason = _WHERE.sub("", message)
    return InvalidRequest(f"{path or 'the body'}: {reason}", param=path or None)


def _refuse_unsupported(fields: dict[str, msgspec.Raw]) -> None:
    for name in fields.keys() & UNSUPPORTED.keys():
        value = msgspec.json.decode(fields[name])
        if value not in (*_ASKS_NOTHING, *UNSUPPORTED[name]):
            raise InvalidRequest(f"{name} is not supported by this server", param=name, code="unsupported_parameter")


def _mention_unknown(names: set[str]) -> None:
    for name in sorted(names - _mentioned):
        if len(_mentioned) < _MOST_MENTIONED:
            _mentioned.add(name)
            logger.info("ignoring unknown request field %r (said once)", name[:100])
