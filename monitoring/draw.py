"""Draw the dashboards from the answers of any Prometheus, for documentation and for who has no Grafana.

    python -m monitoring.draw --prometheus http://127.0.0.1:9090 --minutes 60 --into pictures

The same queries on the same grid; not Grafana's own rendering. One PNG for each dashboard.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

from monitoring.boards import BOARDS
from monitoring.canvas import COLOURS, Canvas, Span
from monitoring.grafana import TAG, Chosen, Dashboard, Row
from monitoring.prometheus import Prometheus

_POINTS = 120


@dataclass(frozen=True)
class Options:
    """What to draw, and of when."""

    prometheus: Prometheus
    span: Span
    chosen: Chosen


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw every dashboard."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", metavar="URL")
    parser.add_argument("--minutes", type=float, default=60, help="how far back to look (default: %(default)s)")
    parser.add_argument("--into", type=Path, default=Path(), metavar="FOLDER")
    parser.add_argument("--namespace", default=".*", help="a regular expression, as are the next two")
    parser.add_argument("--deployment", default=".*")
    parser.add_argument("--pod", default=".*")
    asked = parser.parse_args(arguments)
    now = time.time()
    span = Span(now - asked.minutes * 60, now, max(1.0, asked.minutes * 60 / _POINTS))
    values = {name: getattr(asked, name) for name in ("namespace", "deployment", "pod")}
    window = f"{max(15, int(4 * span.step))}s"
    options = Options(Prometheus(asked.prometheus), span, Chosen(window=window, values=values))
    asked.into.mkdir(parents=True, exist_ok=True)
    for board in BOARDS:
        print(draw(board, options, asked.into / f"{board.uid.removeprefix(f'{TAG}-')}.png"))


def draw(board: Dashboard, options: Options, path: Path) -> Path:
    """Draw one dashboard."""
    mpl.use("Agg")
    with mpl.rc_context({"font.size": 7.5, "font.family": "DejaVu Sans", "text.color": COLOURS.text}):
        canvas = Canvas(board)
        for part, at in board.places():
            if isinstance(part, Row):
                canvas.heading(part.title, at)
                continue
            instant = part.kind == "table"
            answers = [
                options.prometheus.query(options.chosen.fill(query.expr))
                if instant
                else options.prometheus.between(options.chosen.fill(query.expr), *options.span.arguments)
                for query in part.queries
            ]
            canvas.panel(part, at, answers, options.span)
        canvas.save(path)
    return path


if __name__ == "__main__":
    main()
