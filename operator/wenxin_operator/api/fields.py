"""The types that fields of the custom resources are made of, each with its schema, its check and its meaning.

Every check exists twice on purpose: as a CEL rule, so that `kubectl apply` refuses at once, and here, so that an object
that came past an older schema is refused with the same words. tests/ holds the models to them, e2e/ a real API server.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, core_schema


class Part(BaseModel):
    """A piece of a custom resource: frozen, camelCase in YAML, and strict about fields it does not know."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        use_attribute_docstrings=True,
    )


def rule(expression: str, message: str) -> dict[str, Any]:
    """One CEL rule, as json_schema_extra takes it. `self` is the value it stands on."""
    return rules((expression, message))


def rules(*pairs: tuple[str, str]) -> dict[str, Any]:
    """Several CEL rules on one value."""
    return {"x-kubernetes-validations": [{"rule": expression, "message": message} for expression, message in pairs]}


def require(predicate: Callable[[Any], bool], message: str) -> AfterValidator:
    """The same rule for the operator's own validation."""

    def check(value: Any) -> Any:
        if not predicate(value):
            raise ValueError(message)
        return value

    return AfterValidator(check)


_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = r"^([0-9]+([.][0-9]+)?(ms|s|m|h))+$"
_DURATION_MESSAGE = "write a duration such as 500ms, 30s, 5m or 1h30m"


def seconds(duration: str) -> float:
    """Read a Go-style duration.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(_DURATION, duration):
        raise ValueError(_DURATION_MESSAGE)
    parts = re.findall(r"([0-9.]+)(ms|s|m|h)", duration)
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)


@dataclass(frozen=True, slots=True)
class DurationUpTo:
    """Marks a string field as a Go-style duration of at most `longest` and at least `shortest`."""

    longest: str
    shortest: str = "0s"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """How pydantic checks it."""
        return core_schema.no_info_after_validator_function(self._check, core_schema.str_schema(max_length=32))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """How the API server checks it."""
        is_duration = f"self.matches(r'{_DURATION}')"
        short_enough = f"!{is_duration} || duration(self) <= duration('{self.longest}')"
        checks = [(is_duration, _DURATION_MESSAGE), (short_enough, self._too_long)]
        if seconds(self.shortest):
            checks.append((f"!{is_duration} || duration(self) >= duration('{self.shortest}')", self._too_short))
        return {"type": "string", "maxLength": 32, **rules(*checks)}

    @property
    def _too_long(self) -> str:
        return f"must be at most {self.longest}"

    @property
    def _too_short(self) -> str:
        return f"must be at least {self.shortest}"

    def _check(self, value: str) -> str:
        if seconds(value) > seconds(self.longest):
            raise ValueError(self._too_long)
        if seconds(value) < seconds(self.shortest):
            raise ValueError(self._too_short)
        return value


_QUANTITY = r"^[0-9]+([.][0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"
_QUANTITY_MESSAGE = "write a quantity such as 2, 500m or 16Gi"

Quantity = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if isinstance(value, int | float) else value),
    require(lambda value: re.fullmatch(_QUANTITY, value) is not None, _QUANTITY_MESSAGE),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "maxLength": 32,
            **rule(f"type(self) == int ? self >= 0 : self.matches(r'{_QUANTITY}')", _QUANTITY_MESSAGE),
        }
    ),
]

_SEGMENTS = r"(/[A-Za-z0-9_][A-Za-z0-9._+@=-]*)*"
_PORT = r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_HOST = rf"[a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?(:{_PORT})?"
_SOURCES = (
    rf"pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?{_SEGMENTS}",
    r"(hf|modelscope)://[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}",
    rf"https?://{_HOST}{_SEGMENTS}/?",
    rf"s3://[a-z0-9][a-z0-9.-]{{1,61}}[a-z0-9]{_SEGMENTS}/?",
)
_SOURCE = f"^({'|'.join(_SOURCES)})$"
_SOURCE_MESSAGE = (
    "write pvc://CLAIM/PATH (a PersistentVolumeClaim of this namespace and a folder in it), hf://ORGANISATION/NAME, "
    "modelscope://ORGANISATION/NAME, https://HOST/FOLDER/ or s3://BUCKET/PREFIX"
)

Source = Annotated[
    str,
    StringConstraints(min_length=1, max_length=512),
    require(lambda value: re.fullmatch(_SOURCE, value) is not None, _SOURCE_MESSAGE),
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 1,
            "maxLength": 512,
            **rule(f"self.matches(r'{_SOURCE}')", _SOURCE_MESSAGE),
        }
    ),
]


_ENDPOINT = rf"^https?://{_HOST}(/[-a-zA-Z0-9._~/]*)?$"
_ENDPOINT_MESSAGE = "write a URL such as http://collector.observability.svc:4318"

Endpoint = Annotated[
    str,
    StringConstraints(max_length=512),
    require(lambda value: re.fullmatch(_ENDPOINT, value) is not None, _ENDPOINT_MESSAGE),
    WithJsonSchema({"type": "string", "maxLength": 512, **rule(f"self.matches(r'{_ENDPOINT}')", _ENDPOINT_MESSAGE)}),
]


@dataclass(frozen=True, slots=True)
class ClaimPath:
    """Where in which claim a model lies.

    Attributes:
        claim: Name of the PersistentVolumeClaim.
        path: Folder in it without slashes at its ends; empty for the claim's root.
    """

    claim: str
    path: str

    @property
    def mount_path(self) -> str:
        """Where a container sees the claim."""
        return f"/models/{self.claim}"

    @property
    def model_dir(self) -> str:
        """Where a container sees the model."""
        return f"{self.mount_path}/{self.path}".rstrip("/")


def claim_path(source: str) -> ClaimPath:
    """Take a valid pvc:// source apart."""
    claim, _, path = source.removeprefix("pvc://").partition("/")
    return ClaimPath(claim, path)


_RESERVED = ("serving.wenxin.io/", "app.kubernetes.io/")
_RESERVED_MESSAGE = "keys under serving.wenxin.io/ and app.kubernetes.io/ are the operator's own"
_RESERVED_RULE = "self.all(key, " + " && ".join(f"!key.startsWith('{prefix}')" for prefix in _RESERVED) + ")"


_not_reserved = require(lambda value: not any(key.startswith(_RESERVED) for key in value), _RESERVED_MESSAGE)
_Entries = Field(max_length=64)
_OurEntries = Field(max_length=64, json_schema_extra=rule(_RESERVED_RULE, _RESERVED_MESSAGE))

Labels = Annotated[dict[str, Annotated[str, Field(max_length=63)]], _OurEntries, _not_reserved]
Annotations = Annotated[dict[str, Annotated[str, Field(max_length=4096)]], _OurEntries, _not_reserved]
NodeLabels = Annotated[dict[str, Annotated[str, Field(max_length=63)]], _Entries]

Preserved = Annotated[dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})]
"""An object of Kubernetes' own schema; the API server judges it when the pod template is applied."""
