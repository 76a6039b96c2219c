"""A page of panels on Grafana's grid, drawn with matplotlib: lines, numbers, tables and heat maps."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from monitoring.grafana import COLUMNS, Dashboard, Panel, Place
from monitoring.prometheus import Series
from monitoring.units import written

COLOURS = SimpleNamespace(
    page="#f4f5f7", panel="#ffffff", edge="#dfe2e8", text="#22252b", quiet="#747a86", grid="#eceef2"
)
PALETTE = ("#3d71d9", "#e0752d", "#2f9e5b", "#b54fc4", "#c4302b", "#1f9aa8", "#caa300", "#7a5bd6", "#8a8f98", "#d6588f")
LIMITS = {"green": "#2f9e5b", "yellow": "#d49b00", "red": "#d0342c"}
HEAT = LinearSegmentedColormap.from_list("heat", ("#fff7ec", "#fdbb84", "#e34a33", "#7f0000"))

_INCH = 0.58  # of one column
_ROW = 0.27  # inches of one row of the grid
_HEAD = 2.2  # rows for the page's title
_DPI = 80
_COLOURS = 200
_MOST_LINES = 8  # in a legend; more would not fit
_TIGHT = 40  # letters of a legend's entry
_NARROW = 0.006  # of the page's width


@dataclass(frozen=True)
class Span:
    """Unix seconds, and seconds between two points."""

    begin: float
    end: float
    step: float

    @property
    def arguments(self) -> tuple[float, float, float]:
        """As a range query takes them."""
        return self.begin, self.end, self.step


Answers = Sequence[Sequence[Series]]
"""For each query of a panel its series."""


class Canvas:
    """One page."""

    def __init__(self, board: Dashboard) -> None:
        """Lay out an empty page with the board's title."""
        self._rows = _HEAD + max(at.y + at.height for _, at in board.places()) + 0.4
        self._figure = Figure((COLUMNS * _INCH, self._rows * _ROW), dpi=_DPI, facecolor=COLOURS.page)
        FigureCanvasAgg(self._figure)
        self._figure.text(0.012, 1 - 0.8 / self._rows, board.title, fontsize=13, fontweight="bold", va="center")
        self._figure.text(0.012, 1 - 1.75 / self._rows, board.summary, fontsize=8, color=COLOURS.quiet, va="center")

    def heading(self, title: str, at: Place) -> None:
        """The title of a row."""
        _, bottom, _, height = self._box(at)
        self._figure.text(0.012, bottom + height / 2, title, fontsize=9, fontweight="bold", va="center")

    def panel(self, panel: Panel, at: Place, answers: Answers, span: Span) -> None:
        """One panel: its frame and title, and what was answered."""
        left, bottom, width, height = self._box(at)
        frame = FancyBboxPatch(
            (left + 0.002, bottom + 0.1 / self._rows),
            width - 0.004,
            height - 0.2 / self._rows,
            boxstyle="round,pad=0,rounding_size=0.002",
            transform=self._figure.transFigure,
            facecolor=COLOURS.panel,
            edgecolor=COLOURS.edge,
            linewidth=0.8,
            zorder=-1,  # below what is drawn on it
        )
        self._figure.add_artist(frame)
        top = bottom + height - 0.75 / self._rows
        self._figure.text(left + _NARROW, top, panel.title, fontsize=8, fontweight="bold", va="center")
        draw = {"timeseries": self._lines, "stat": self._number, "table": self._table, "heatmap": self._heat}
        if any(answers):
            draw[panel.kind](panel, (left, bottom, width, height), answers, span)
        else:
            words = panel.quiet or "no data"
            self._figure.text(
                left + width / 2, bottom + height / 2, words, ha="center", va="center", color=COLOURS.quiet
            )

    def save(self, path: Path) -> None:
        """Write a PNG of few colours, a third as large as one of all."""
        drawn = io.BytesIO()
        self._figure.savefig(drawn, facecolor=COLOURS.page)
        with Image.open(drawn) as image:
            image.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)

    def _box(self, at: Place) -> tuple[float, float, float, float]:
        """Left, bottom, width and height as shares of the page."""
        height = at.height / self._rows
        return at.x / COLUMNS, 1 - (_HEAD + at.y) / self._rows - height, at.width / COLUMNS, height

    def _axes(self, box: tuple[float, float, float, float], below: float) -> Axes:
        """Room for a drawing, `below` rows left for a legend."""
        left, bottom, width, height = box
        spare = (below + 1.0) / self._rows
        return self._figure.add_axes(
            (left + 0.040, bottom + spare, width - 0.050, height - spare - 1.45 / self._rows), facecolor=COLOURS.panel
        )

    def _lines(self, panel: Panel, box: tuple[float, float, float, float], answers: Answers, span: Span) -> None:
        named = _named(panel, answers)
        shown = named[:_MOST_LINES]
        across = 2 if box[2] < 0.4 else 3
        axes = self._axes(box, 0.55 * math.ceil(len(shown) / across))
        if panel.stacked:
            _stack(axes, named, span)
        else:
            for number, (_, series) in enumerate(named):
                axes.plot(*_gaps(series, span), color=_colour(number), linewidth=1.1)
        for value, name in panel.limits:
            if value <= axes.get_ylim()[1]:
                axes.axhline(value, color=LIMITS[name], linewidth=0.8, linestyle=(0, (4, 3)))
        _dress(axes, panel, span)
        self._legend(shown, panel, box, across)

    def _legend(
        self, named: Sequence[tuple[str, Series]], panel: Panel, box: tuple[float, float, float, float], across: int
    ) -> None:
        left, bottom, width, _ = box
        lines = math.ceil(len(named) / across)
        for number, (name, series) in enumerate(named):
            line, column = divmod(number, across)
            x = left + _NARROW + column * (width - 2 * _NARROW) / across
            y = bottom + (0.45 + 0.55 * (lines - line - 1)) / self._rows
            mark = Rectangle(
                (x, y - 0.05 / self._rows),
                0.006,
                0.11 / self._rows,
                transform=self._figure.transFigure,
                facecolor=_colour(number),
            )
            self._figure.add_artist(mark)
            words = f"{_short(name, _TIGHT // across + 6)}  {written(_last(series), panel.unit)}"
            self._figure.text(x + 0.009, y, words, fontsize=6.5, va="center", color=COLOURS.text)

    def _number(self, panel: Panel, box: tuple[float, float, float, float], answers: Answers, span: Span) -> None:
        left, bottom, width, height = box
        series = answers[0][0]
        value = _last(series)
        colour = _limit(panel, value)
        axes = self._figure.add_axes((left + 0.004, bottom + 0.25 / self._rows, width - 0.008, height * 0.34))
        times, values = _gaps(series, span)
        axes.fill_between(times, values, color=colour, alpha=0.16, linewidth=0)
        axes.plot(times, values, color=colour, linewidth=0.9)
        axes.set_xlim(span.begin, span.end)
        axes.set_ylim(0, max(1e-9, float(np.nanmax(values))) * 1.15 if not np.isnan(values).all() else 1)
        axes.axis("off")
        self._figure.text(
            left + width / 2,
            bottom + height * 0.56,
            written(value, panel.unit),
            fontsize=17,
            fontweight="bold",
            color=colour,
            ha="center",
            va="center",
        )

    def _table(self, panel: Panel, box: tuple[float, float, float, float], answers: Answers, _: Span) -> None:
        heads, rows = _rows(panel, answers)
        left, bottom, width, height = box
        weights = [max(len(head), *(len(row[number]) for row in rows)) + 2 for number, head in enumerate(heads)]
        total = sum(weights)
        starts = [
            left + _NARROW + (width - 2 * _NARROW) * sum(weights[:number]) / total for number in range(len(heads))
        ]
        letters = width * COLUMNS * _INCH * 72 / 3.9  # that fit side by side
        size = min(7.5, 7.0 * letters / total) if total > letters else 7.5
        y = bottom + height - 1.75 / self._rows
        for line, cells in enumerate((heads, *rows[: int(height * self._rows - 2.2)])):
            for start, cell in zip(starts, cells, strict=True):
                colour = COLOURS.quiet if line == 0 else COLOURS.text
                self._figure.text(start, y, cell, fontsize=size, va="center", color=colour)
            y -= 0.8 / self._rows

    def _heat(self, panel: Panel, box: tuple[float, float, float, float], answers: Answers, span: Span) -> None:
        bounds, counts = _buckets(answers[0], span)
        used = [number for number, row in enumerate(counts) if np.nansum(row) > 0]
        if not used:
            return
        first, last = max(0, used[0] - 1), min(len(bounds) - 1, used[-1] + 1)
        shown, names = counts[first : last + 1], bounds[first : last + 1]
        axes = self._axes(box, 0)
        edges = np.linspace(span.begin, span.end, shown.shape[1] + 1)
        axes.pcolormesh(edges, np.arange(len(names) + 1), np.sqrt(shown), cmap=HEAT, shading="flat", rasterized=True)
        _dress(axes, panel, span)
        step = math.ceil(len(names) / 6)
        axes.set_yticks([number + 1 for number in range(0, len(names), step)])
        axes.set_yticklabels([_bound(name, panel.unit) for name in names[::step]])
        axes.grid(visible=False)


def _named(panel: Panel, answers: Answers) -> list[tuple[str, Series]]:
    """All series with the words of their legend, by name."""
    pairs = [
        (_filled(query.legend, series.labels), series)
        for query, found in zip(panel.queries, answers, strict=True)
        for series in found
    ]
    return pairs if len(panel.queries) > 1 else sorted(pairs, key=lambda pair: pair[0])


def _filled(legend: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend)


def _gaps(series: Series, span: Span) -> tuple[Any, Any]:
    """Points of the whole span; NaN where there is none."""
    times = np.arange(span.begin, span.end + span.step / 2, span.step)
    values = np.full(len(times), np.nan)
    for at, value in series.points:
        values[min(len(times) - 1, max(0, round((at - span.begin) / span.step)))] = value
    return times, values


def _stack(axes: Axes, named: Sequence[tuple[str, Series]], span: Span) -> None:
    below: Any = 0.0
    for number, (_, series) in enumerate(named):
        times, values = _gaps(series, span)
        above = below + np.nan_to_num(values)
        there = ~np.isnan(values)
        axes.fill_between(times, below, above, where=there, color=_colour(number), alpha=0.42, linewidth=0)
        axes.plot(times, np.where(there, above, np.nan), color=_colour(number), linewidth=0.9)
        below = above


def _dress(axes: Axes, panel: Panel, span: Span) -> None:
    """Axes as Grafana draws them: a light grid, times below, units on the left."""
    axes.set_xlim(span.begin, span.end)
    if panel.kind != "heatmap":
        top = axes.get_ylim()[1]
        axes.set_ylim(0, panel.most * 1.03 if panel.most else max(top, 1e-9))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: written(value, panel.unit)))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: datetime.fromtimestamp(value, UTC).strftime("%H:%M:%S"))
    )
    axes.tick_params(length=0, labelsize=6.5, colors=COLOURS.quiet)
    axes.grid(color=COLOURS.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)


def _rows(panel: Panel, answers: Answers) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heads and cells: one row for each set of labels, one column for each query."""
    labels = sorted(
        {label for found in answers for series in found for label in series.labels} - {"__name__"}, key=_rank
    )
    cells: dict[tuple[str, ...], dict[int, str]] = {}
    for number, (query, found) in enumerate(zip(panel.queries, answers, strict=True)):
        for series in found:
            key = tuple(series.labels.get(label, "") for label in labels)
            cells.setdefault(key, {})[number] = written(series.last, query.unit or panel.unit)
    heads = (*labels, *(query.legend for query in panel.queries))
    columns = range(len(panel.queries))
    return heads, [(*key, *(row.get(number, "") for number in columns)) for key, row in sorted(cells.items())]


def _rank(label: str) -> tuple[int, str]:
    """Where first, then what."""
    order = ("namespace", "deployment", "model", "pod", "condition")
    return (order.index(label) if label in order else len(order), label)


def _buckets(found: Sequence[Series], span: Span) -> tuple[list[str], Any]:
    """Upper bounds in order, and what each bucket alone counted: Prometheus' buckets hold those below, too."""
    ordered = sorted(found, key=lambda series: float(series.labels["le"]))
    heights = np.array([_gaps(series, span)[1] for series in ordered])
    alone = np.diff(heights, axis=0, prepend=0)
    return [series.labels["le"] for series in ordered], np.clip(alone, 0, None)


def _bound(name: str, unit: str) -> str:
    value = float(name)
    return "more" if math.isinf(value) else written(value, unit)


def _last(series: Series) -> float:
    return next((value for _, value in reversed(series.points) if not math.isnan(value)), math.nan)


def _limit(panel: Panel, value: float) -> str:
    """The colour of the last limit that the value reaches."""
    reached = [name for at, name in panel.limits if value >= at]
    return LIMITS[reached[-1] if reached else "green"]


def _colour(number: int) -> str:
    return PALETTE[number % len(PALETTE)]


def _short(name: str, longest: int) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"
