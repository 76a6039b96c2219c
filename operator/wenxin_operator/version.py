"""Which version of the project this is."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("wenxin-operator")
except PackageNotFoundError:  # pragma: no cover - run from a bare source tree
    VERSION = "0.0.0"
