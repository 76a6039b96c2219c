"""From a live object's spec to its model, or to words that name the field at fault."""

import json
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import ValidationError

from wenxin_operator.api.fields import Part
from wenxin_operator.errors import SpecError

P = TypeVar("P", bound=Part)


def parse(part: type[P], value: Any, path: str = "spec") -> P | SpecError:
    """Read `value`, which stands at `path` of a resource.

    Returns:
        The model, or the error as a value: an unacceptable spec is an everyday fact, not a failure of the pass.
    """
    try:
        # As JSON and strictly, as the API server does it: "1" is no number.
        return part.model_validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        return SpecError("; ".join(_sentences(error, path)))


def _sentences(error: ValidationError, path: str) -> Iterable[str]:
    for problem in error.errors(include_url=False):
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
        words = (
            "unknown field" if problem["type"] == "extra_forbidden" else problem["msg"].removeprefix("Value error, ")
        )
        yield f"{path}{where}: {words}"
