"""What holds of every dashboard without a Prometheus: layout, words, links, and that what it asks for exists."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from docs.reference_metrics import families
from monitoring.alerts import groups
from monitoring.boards import BOARDS, NOT_DRAWN
from monitoring.exposed import known, labels_of, unknown
from monitoring.generate import files, main, stale, write
from monitoring.grafana import COLUMNS, Chosen, Dashboard, Panel, Query, Row
from monitoring.promql import read

NAMES = known(groups())
EACH = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
PANELS = [(board, panel) for board in BOARDS for panel in board.panels()]
EACH_PANEL = pytest.mark.parametrize(
    "panel", [pytest.param(panel, id=f"{board.uid}: {panel.title}") for board, panel in PANELS]
)
GROUPING = re.compile(r"^(?:sum|max|min|avg|count) by \(([^)]*)\)")


def queries() -> list[Query]:
    return [query for _, panel in PANELS for query in panel.queries]


def test_the_generated_files_are_what_the_code_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0
    assert capsys.readouterr().err == ""


def test_a_file_that_is_missing_changed_or_left_over_is_named_and_mended(tmp_path: Path) -> None:
    write(tmp_path)
    assert list(stale(tmp_path)) == []
    (tmp_path / "dashboards" / "fleet.json").write_text("{}")
    (tmp_path / "alerts" / "old.yaml").touch()
    (tmp_path / "monitoring" / "scrape-config.yaml").unlink()
    assert {path.name for path in stale(tmp_path)} == {"fleet.json", "old.yaml", "scrape-config.yaml"}
    write(tmp_path)
    assert list(stale(tmp_path)) == []


def test_there_are_five_dashboards_with_names_of_their_own() -> None:
    assert {path for path in files() if path.startswith("dashboards/")} == {
        f"dashboards/{name}.json" for name in ("fleet", "deployment", "engine", "answer-cache", "operator")
    }
    assert len({board.uid for board in BOARDS}) == len({board.title for board in BOARDS}) == len(BOARDS)


@EACH
def test_panels_fill_lines_of_the_grid_and_do_not_overlap(board: Dashboard) -> None:
    taken: set[tuple[int, int]] = set()
    for _, at in board.places():
        cells = set(itertools.product(range(at.x, at.x + at.width), range(at.y, at.y + at.height)))
        assert not cells & taken
        assert at.x + at.width <= COLUMNS
        taken |= cells
    lowest = max(y for _, y in taken)
    assert taken == set(itertools.product(range(COLUMNS), range(lowest + 1))), "there are holes"


@EACH
def test_no_two_panels_have_the_same_title(board: Dashboard) -> None:
    titles = [panel.title for panel in board.panels()]
    assert len(titles) == len(set(titles))


@EACH
def test_the_json_is_grafanas_model_with_every_id_once(board: Dashboard) -> None:
    body = json.loads(json.dumps(board.body()))
    assert (body["uid"], body["schemaVersion"], body["tags"]) == (board.uid, 39, ["wenxin"])
    assert body["uid"] == body["uid"][:40]
    numbers = [panel["id"] for panel in body["panels"]]
    assert len(numbers) == len(set(numbers)) == len(list(board.places()))
    for panel in body["panels"]:
        assert panel["type"] in ("row", "timeseries", "stat", "table", "heatmap")
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"
            assert target["instant"] != target["range"]
    variables = {variable["name"]: variable for variable in body["templating"]["list"]}
    assert variables.pop("datasource")["query"] == "prometheus"
    assert variables.keys() == {variable.name for variable in board.variables}


@EACH
def test_each_choice_is_used_and_each_that_is_used_is_there(board: Dashboard) -> None:
    text = " ".join(query.expr for panel in board.panels() for query in panel.queries)
    chosen = set(re.findall(r"\$(\w+)", text)) - {"__rate_interval", "__range"}
    assert chosen == {variable.name for variable in board.variables}
    for variable in board.variables:
        assert list(unknown(Chosen().fill(variable.metric), NAMES)) == []
        assert variable.of in labels_of(Chosen().fill(variable.metric), NAMES)


def test_every_page_leads_to_the_others_with_what_was_chosen() -> None:
    for board in BOARDS:
        (link,) = board.body()["links"]
        assert (link["type"], link["tags"], link["includeVars"], link["keepTime"]) == (
            "dashboards",
            ["wenxin"],
            True,
            True,
        )


@EACH_PANEL
def test_a_panel_has_a_unit_a_description_and_limits_in_order(panel: Panel) -> None:
    assert panel.description.endswith(".")
    assert panel.unit in ("s", "bytes", "percentunit", "reqps", "ops", "short", "none")
    assert [at for at, _ in panel.limits] == sorted(at for at, _ in panel.limits)


@EACH_PANEL
def test_a_query_names_only_metrics_and_labels_that_exist(panel: Panel) -> None:
    for query in panel.queries:
        assert list(unknown(Chosen().fill(query.expr), NAMES)) == []


@EACH_PANEL
def test_what_every_process_of_a_cluster_tells_is_asked_of_ours_alone(panel: Panel) -> None:
    """A choice of all matches what lacks the label, too."""
    for query in panel.queries:
        for selector in read(Chosen().fill(query.expr)).selectors:
            ours = selector.metric.startswith("wenxin_")
            assert ours or {"job", "alertname"} & {*selector.labels}, query.expr


@EACH_PANEL
def test_a_legend_names_only_labels_that_the_answer_has(panel: Panel) -> None:
    for query in panel.queries:
        expression = Chosen().fill(query.expr)
        kept = GROUPING.match(expression)
        labels = set(re.split(r",\s*", kept[1])) if kept else labels_of(expression, NAMES)
        assert set(re.findall(r"\{\{(\w+)\}\}", query.legend)) <= labels
        assert panel.kind != "heatmap" or query.legend == "{{le}}"


@EACH_PANEL
def test_several_queries_of_a_panel_can_be_told_apart(panel: Panel) -> None:
    legends = [query.legend for query in panel.queries]
    assert all(legends)
    assert len(legends) == len(set(legends))


@EACH_PANEL
def test_a_table_leads_to_a_page_that_takes_what_it_is_given(panel: Panel) -> None:
    if panel.link:
        uid, labels = panel.link
        (page,) = (each for each in BOARDS if each.uid == uid)
        assert {*labels} <= {variable.name for variable in page.variables}
        assert all({*labels} <= read(query.expr).grouped for query in panel.queries)


def test_every_metric_that_is_exposed_is_drawn_or_excused() -> None:
    asked = {metric for query in queries() for metric in read(Chosen().fill(query.expr)).metrics}
    drawn = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} | asked
    assert sorted(family.name for family in families() if family.name not in drawn) == sorted(NOT_DRAWN)


def test_a_dashboard_with_a_metric_that_is_none_would_be_noticed() -> None:
    wrong = {
        "sum(wenxin_queue_dept)": "no metric wenxin_queue_dept",
        'wenxin_queue_depth{phase="x"}': "wenxin_queue_depth has no label phase",
        "sum by (phase) (wenxin_queue_depth)": "nothing in it has the label phase",
    }
    for expression, words in wrong.items():
        assert any(words in each for each in unknown(expression, NAMES))


def test_a_line_of_the_grid_breaks_where_the_next_panel_is_too_wide() -> None:
    def panel(width: int) -> Panel:
        return Panel("a", "b.", "s", (Query("up"),), width=width)

    board = Dashboard("u", "t", "s", (), (Row("r", (panel(10), panel(14), panel(8))),))
    places: list[Any] = [(at.x, at.y) for _, at in board.places()]
    assert places == [(0, 0), (0, 1), (10, 1), (0, 9)]
