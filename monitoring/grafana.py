"""What a dashboard is made of, and the JSON that Grafana reads of it (11 and 12; schemaVersion 39).

Grafana's own documentation of the model:
https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

SCHEMA_VERSION = 39
COLUMNS = 24  # of Grafana's grid; one row of it is 30 pixels high
TAG = "wenxin"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

Json = dict[str, Any]
Kind = Literal["timeseries", "stat", "table", "heatmap"]


@dataclass(frozen=True)
class Query:
    """One expression.

    Attributes:
        expr: PromQL, with the dashboard's variables in it.
        legend: A template with {{label}}; for a table the column's heading.
        unit: Of a table's column, where it is not the panel's.
    """

    expr: str
    legend: str = ""
    unit: str = ""


@dataclass(frozen=True)
class Panel:
    """One picture.

    Attributes:
        title: What is shown.
        description: How to read it, and what to do about it.
        unit: Grafana's name of it: s, bytes, percentunit, reqps, short, none, or `suffix:...`.
        queries: What is drawn.
        width: Columns of 24.
        height: Rows of 30 pixels.
        limits: (value, colour) pairs from where on a value is drawn in that colour; green below the first.
        stacked: Whether the series add up to something.
        most: Upper end of the axis, where it is known.
        quiet: Why a healthy system may show nothing here; empty: it always shows something.
        link: For a table: the dashboard that a row leads to, with the row's labels as its variables.
    """

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "timeseries"
    width: int = 8
    height: int = 8
    limits: tuple[tuple[float, str], ...] = ()
    stacked: bool = False
    most: float | None = None
    quiet: str = ""
    link: tuple[str, tuple[str, ...]] | None = None


@dataclass(frozen=True)
class Row:
    """Panels below one heading, from left to right, and on the next line where they are too wide."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    """A choice above the dashboard: the values of a label."""

    name: str
    metric: str
    """With matchers, so that one choice narrows the next."""
    many: bool = True
    label: str = ""

    @property
    def of(self) -> str:
        """The label whose values are chosen from."""
        return self.label or self.name


@dataclass(frozen=True)
class Place:
    """Where a panel stands on the grid."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Dashboard:
    """One page.

    Attributes:
        uid: Kept for ever: links and bookmarks hold it.
        summary: One line below the title.
    """

    uid: str
    title: str
    summary: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]

    def panels(self) -> Iterator[Panel]:
        """In reading order."""
        return (panel for row in self.rows for panel in row.panels)

    def places(self) -> Iterator[tuple[Row | Panel, Place]]:
        """Lay the rows out, one below the other."""
        y = 0
        for row in self.rows:
            yield row, Place(0, y, COLUMNS, 1)
            y += 1
            x = line = 0
            for panel in row.panels:
                if x + panel.width > COLUMNS:
                    x, y, line = 0, y + line, 0
                yield panel, Place(x, y, panel.width, panel.height)
                x, line = x + panel.width, max(line, panel.height)
            y += line

    def body(self) -> Json:
        """As Grafana reads it."""
        placed = enumerate(self.places(), start=1)
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.summary,
            "tags": [TAG],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,  # one cross hair for all panels
            "timezone": "browser",
            "time": {"from": "now-1h", "to": "now"},
            "refresh": "30s",
            "links": [_LINKS],
            "annotations": {"list": []},
            "templating": {"list": [_DATASOURCE_VARIABLE, *map(_variable, self.variables)]},
            "panels": [
                _row(number, part, at) if isinstance(part, Row) else _panel(number, part, at)
                for number, (part, at) in placed
            ],
        }


_LINKS: Json = {
    "title": "Wenxin",
    "type": "dashboards",
    "tags": [TAG],
    "asDropdown": False,
    "includeVars": True,
    "keepTime": True,
}
_DATASOURCE_VARIABLE: Json = {
    "name": "datasource",
    "label": "Data source",
    "type": "datasource",
    "query": "prometheus",
    "current": {},
}


def _variable(variable: Variable) -> Json:
    query = f"label_values({variable.metric}, {variable.of})"
    choice = {"includeAll": True, "multi": True, "allValue": ".*"} if variable.many else {"includeAll": False}
    everything = {"selected": True, "text": ["All"], "value": ["$__all"]}
    return {
        "name": variable.name,
        "label": variable.name.capitalize(),
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": variable.name},
        "definition": query,
        "refresh": 2,  # whenever the time range changes
        "sort": 1,
        "current": everything if variable.many else {},
        **choice,
    }


def _row(number: int, row: Row, at: Place) -> Json:
    return {
        "id": number,
        "type": "row",
        "title": row.title,
        "collapsed": False,
        "gridPos": _grid(at),
        "panels": [],
    }


def _panel(number: int, panel: Panel, at: Place) -> Json:
    shapes = {"timeseries": _timeseries, "stat": _stat, "table": _table, "heatmap": _heatmap}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": _grid(at),
        "targets": [_target(panel, place, query) for place, query in enumerate(panel.queries)],
        **shapes[panel.kind](panel),
    }


def _grid(at: Place) -> Json:
    return {"x": at.x, "y": at.y, "w": at.width, "h": at.height}


def _target(panel: Panel, number: int, query: Query) -> Json:
    instant = panel.kind == "table"
    shape = {"table": "table", "heatmap": "heatmap"}.get(panel.kind, "time_series")
    return {
        "refId": chr(ord("A") + number),
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "format": shape,
        "instant": instant,
        "range": not instant,
    }


def _field(panel: Panel, custom: Json, overrides: Sequence[Json] = ()) -> Json:
    steps = [{"color": "green", "value": None}, *({"color": name, "value": at} for at, name in panel.limits)]
    defaults: Json = {
        "unit": panel.unit,
        "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": steps},
        "custom": custom,
        "mappings": [],
    }
    if panel.kind in ("timeseries", "stat"):
        defaults |= {"min": 0} | ({"max": panel.most} if panel.most is not None else {})
    return {"defaults": defaults, "overrides": list(overrides)}


def _timeseries(panel: Panel) -> Json:
    custom = {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 40 if panel.stacked else 8,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if panel.limits else "off"},
        "axisPlacement": "auto",
    }
    legend = {
        "displayMode": "table",
        "placement": "bottom",
        "showLegend": True,
        "calcs": ["mean", "max", "lastNotNull"],
    }
    return {
        "fieldConfig": _field(panel, custom),
        "options": {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}},
    }


def _stat(panel: Panel) -> Json:
    return {
        "fieldConfig": _field(panel, {}),
        "options": {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "area",
            "textMode": "value",
            "justifyMode": "auto",
            "orientation": "auto",
        },
    }


def _table(panel: Panel) -> Json:
    """One row for each set of labels, one column for each query."""
    headings = {f"Value #{chr(ord('A') + number)}": query.legend for number, query in enumerate(panel.queries)}
    if len(panel.queries) == 1:
        headings = {"Value": panel.queries[0].legend}
    units = [_override(query.legend, {"id": "unit", "value": query.unit}) for query in panel.queries if query.unit]
    return {
        "fieldConfig": _field(panel, {"align": "auto", "filterable": True}, [*units, *_links(panel)]),
        "options": {"showHeader": True, "cellHeight": "sm", "footer": {"show": False}},
        "transformations": [
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": headings}},
        ],
    }


def _links(panel: Panel) -> Iterator[Json]:
    if panel.link:
        uid, labels = panel.link
        chosen = "&".join(f"var-{label}=${{__data.fields.{label}}}" for label in labels)
        link = {"title": "Show it alone", "url": f"/d/{uid}?${{datasource:queryparam}}&{chosen}&${{__url_time_range}}"}
        yield _override(labels[-1], {"id": "links", "value": [link]})


def _override(column: str, prop: Json) -> Json:
    return {"matcher": {"id": "byName", "options": column}, "properties": [prop]}


def _heatmap(panel: Panel) -> Json:
    return {
        "fieldConfig": {"defaults": {"custom": {"scaleDistribution": {"type": "linear"}}}, "overrides": []},
        "options": {
            "calculate": False,
            "cellGap": 1,
            "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5},
            "yAxis": {"unit": panel.unit, "axisPlacement": "left"},
            "rowsFrame": {"layout": "auto"},
            "tooltip": {"mode": "single", "yHistogram": True},
            "legend": {"show": True},
            "filterValues": {"le": 1e-9},
        },
    }


@dataclass(frozen=True)
class Chosen:
    """What a dashboard's variables stand for when nobody chose: everything."""

    window: str = "1m"
    span: str = "1h"
    values: Mapping[str, str] = field(default_factory=dict)

    def fill(self, expression: str) -> str:
        """Put values in place of variables, as Grafana would."""
        fixed = {"$__rate_interval": self.window, "$__range": self.span}
        for name, value in fixed.items():
            expression = expression.replace(name, value)
        for name in ("namespace", "deployment", "pod"):
            expression = expression.replace(f"${name}", self.values.get(name, ".*"))
        return expression
