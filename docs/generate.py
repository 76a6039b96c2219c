"""Write docs/reference/ from the code: fields of the resources, settings, flags and metrics, each from its one source.

`python -m docs.generate` writes; `--check` fails, naming the page, when one is not what the code says.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from docs.reference_flags import flags_page
from docs.reference_metrics import metrics_page
from docs.reference_resources import resources_page
from docs.reference_settings import settings_page

REFERENCE = Path(__file__).parent / "reference"

PAGES: dict[str, Callable[[], str]] = {
    "resources.md": resources_page,
    "operator-settings.md": settings_page,
    "runtime-flags.md": flags_page,
    "metrics.md": metrics_page,
}

_NOTICE = "<!-- Written by `make docs` from the code; edit the code. -->\n\n"


def stale_pages(folder: Path = REFERENCE) -> Iterator[Path]:
    """Pages that are missing, or not what the code says, or that nothing writes any more."""
    for name, render in PAGES.items():
        page = folder / name
        if not page.exists() or page.read_text() != _NOTICE + render():
            yield page
    yield from (page for page in sorted(folder.glob("*.md")) if page.name not in PAGES)


def write_pages(folder: Path = REFERENCE) -> None:
    """Write every page."""
    folder.mkdir(exist_ok=True)
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
