"""The page of operator settings, from the Settings model."""

from docs.markdown import code, table
from wenxin_operator.settings import Settings, variable

_HEAD = """\
# Settings of `wenxin-operator`

Environment variables; the chart sets them from its values. Durations are written like `90s`, `1m30s` or `500ms`.
An unknown `WENXIN_OPERATOR_` variable stops the operator at start.

"""


def settings_page() -> str:
    """One row per setting: variable, default, meaning."""
    rows = [
        (code(variable(name)), _default(field.default if not field.default_factory else None), field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    return _HEAD + table(["variable", "default", "meaning"], rows)


def _default(value: object) -> str:
    if isinstance(value, float):
        return code(f"{value:g}s")
    return "" if value == () else code(value)
