"""Write docs/reference/ from the code and docs/performance.md from the benchmarks' results, each from its one source.

`python -m docs.generate` writes; `--check` fails, naming the page, when one is not what the code says.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from docs.performance import performance_page
from docs.reference_chart import chart_page
from docs.reference_fields import fields_page
from docs.reference_flags import flags_page
from docs.reference_metrics import metrics_page
from docs.reference_resources import resources_page
from docs.reference_settings import settings_page

DOCS = Path(__file__).parent
REFERENCE = DOCS / "reference"

PAGES: dict[str, Callable[[], str]] = {
    "reference/resources.md": resources_page,
    "reference/operator-settings.md": settings_page,
    "reference/chart-values.md": chart_page,
    "reference/request-fields.md": fields_page,
    "reference/runtime-flags.md": flags_page,
    "reference/metrics.md": metrics_page,
    "performance.md": performance_page,
}

_NOTICE = "<!-- Written by `make docs` from the code; edit the code. -->\n\n"


def stale_pages(folder: Path = DOCS) -> Iterator[Path]:
    """Pages that are missing, or not what their source says, or that nothing writes any more."""
    for name, render in PAGES.items():
        page = folder / name
        if not page.exists() or page.read_text() != _NOTICE + render():
            yield page
    pages = {folder / name for name in PAGES}
    yield from (page for page in sorted((folder / REFERENCE.name).glob("*.md")) if page not in pages)


def write_pages(folder: Path = DOCS) -> None:
    """Write every page."""
    (folder / REFERENCE.name).mkdir(exist_ok=True)
    for name, render in PAGES.items():
        (folder / name).write_text(_NOTICE + render())


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is out of date")
    if not parser.parse_args(arguments).check:
        write_pages()
        return 0
    stale = list(stale_pages())
    for page in stale:
        print(f"{page} is out of date: run `make docs`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
