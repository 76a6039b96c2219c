"""Write dashboards, rules and scrape configurations into the chart, each from its one source.

`python -m monitoring.generate` writes; `--check` fails, naming the file, when one is not what the code says.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from monitoring import targets
from monitoring.alerts import FILES
from monitoring.boards import BOARDS
from monitoring.grafana import TAG

CHART = Path(__file__).parents[1] / "charts" / "wenxin-operator"
FOLDERS = ("dashboards", "alerts", "monitoring")
_NOTICE = "# Written by `make dashboards` from monitoring/; edit that.\n"


def files() -> Mapping[str, str]:
    """Path in the chart -> contents."""
    boards = {f"dashboards/{board.uid.removeprefix(f'{TAG}-')}.json": _json(board.body()) for board in BOARDS}
    rules = {f"alerts/{name}": _yaml({"groups": [group.body() for group in groups]}) for name, groups in FILES.items()}
    scraping = {
        "monitoring/relabelings.yaml": _yaml(targets.relabelings()),
        "monitoring/scrape-config.yaml": _yaml(targets.scrape_config()),
    }
    return boards | rules | scraping


def stale(chart: Path = CHART) -> Iterator[Path]:
    """Files that are missing, or not what the code says, or that nothing writes any more."""
    wanted = {chart / name: text for name, text in files().items()}
    yield from (path for path, text in wanted.items() if not path.exists() or path.read_text() != text)
    there = (path for folder in FOLDERS for path in sorted((chart / folder).glob("*")))
    yield from (path for path in there if path not in wanted)


def write(chart: Path = CHART) -> None:
    """Write every file, and remove what nothing writes any more."""
    for name, text in files().items():
        (chart / name).parent.mkdir(parents=True, exist_ok=True)
        (chart / name).write_text(text)
    for path in stale(chart):
        path.unlink()


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or check them."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")
    if not parser.parse_args(arguments).check:
        write()
        return 0
    found = list(stale())
    for path in found:
        print(f"{path} is out of date: run `make dashboards`", file=sys.stderr)
    return 1 if found else 0


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


class _Readable(yaml.SafeDumper):
    """Says a value again where it occurs again, in place of an anchor."""

    def ignore_aliases(self, _: Any) -> bool:
        return True


def _yaml(value: Any) -> str:
    return _NOTICE + yaml.dump(value, Dumper=_Readable, sort_keys=False, width=120, allow_unicode=True)


if __name__ == "__main__":
    sys.exit(main())
