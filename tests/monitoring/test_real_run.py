"""Every query of every dashboard and rule, asked of a real Prometheus that scraped a real server and operator."""

import asyncio
import itertools
import math
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from monitoring import draw, targets
from monitoring.alerts import groups
from monitoring.boards import BOARDS
from monitoring.grafana import Chosen, Panel
from monitoring.prometheus import QueryError
from monitoring.rules import Recording
from tests.monitoring.rehearsal import NAME, NAMESPACE, Rehearsal, rehearse

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("prometheus")]

PANELS = [pytest.param(panel, id=f"{board.uid}: {panel.title}") for board in BOARDS for panel in board.panels()]
QUIET = {
    "wenxin_operator_deployment_replicas_max": "nothing here is autoscaled",
    "wenxin_grpc_responses_total": "nobody speaks gRPC here",
}
"""Metrics that a query shows nothing of in this run, though all is well."""
CHOICES = (Chosen(), Chosen(values={"namespace": NAMESPACE, "deployment": NAME, "pod": f"{NAME}-0"}))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def run(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rehearsal]:
    async with rehearse(tmp_path_factory.mktemp("rehearsal")) as running:
        async with running.load():
            # Each kind of ending has happened, and has been scraped twice since.
            for wanted in (
                'increase(wenxin_answer_cache_requests_total{result="hit"}[1m]) > 3',
                'increase(wenxin_answer_cache_requests_total{result="bypass"}[1m]) > 0',
                'increase(wenxin_requests_total{finish_reason="length"}[1m]) > 5',
                'increase(wenxin_http_responses_total{status="503"}[1m]) > 0',
                "sum(increase(wenxin_operator_reconcile_total[1m])) > 0",
                "count_over_time(wenxin_slots[1m]) > 5",
            ):
                await running.until(wanted)
        for group in groups():
            for rule in group.rules:
                if isinstance(rule, Recording):
                    await running.until(rule.record)
        yield running


@pytest.mark.parametrize("panel", PANELS)
async def test_every_panel_shows_numbers_whatever_is_chosen_and_each_has_the_labels_of_its_legend(
    run: Rehearsal, panel: Panel
) -> None:
    for query, choice in itertools.product(panel.queries, CHOICES):
        answer = await run.ask(choice.fill(query.expr))
        excused = panel.quiet or any(name in query.expr for name in QUIET)
        assert excused or [series for series in answer if not math.isnan(series.last)], query.expr
        for label in re.findall(r"\{\{(\w+)\}\}", query.legend):
            assert all(label in series.labels for series in answer), query.expr


async def test_no_rule_fails_and_no_alert_is_misspelt(run: Rehearsal) -> None:
    rules = run.prometheus.rules()
    assert len(rules) == sum(len(group.rules) for group in groups())
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] != "ok"] == []


async def test_nothing_critical_fires_in_a_run_where_nothing_is_wrong_but_the_load(run: Rehearsal) -> None:
    """The load is too much for four slots on purpose, and may well be turned away."""
    firing = {each.labels["alertname"] for each in await run.ask('ALERTS{alertstate="firing", severity="critical"}')}
    assert firing <= {"WenxinRequestsRejected", "WenxinFirstTokenBurnFast", "WenxinTokenGapBurnFast"}


async def test_what_is_scraped_carries_the_labels_that_are_promised(run: Rehearsal) -> None:
    for target in targets.TARGETS:
        series = await run.ask(f'up{{job="{target.job}"}}')
        assert {*series[0].labels} - {"__name__"} == target.label_names


async def test_what_the_operator_tells_of_a_deployment_lies_where_the_deployment_does(run: Rehearsal) -> None:
    (told,) = await run.ask('wenxin_operator_deployment_condition{condition="Ready"}')
    assert (told.labels["namespace"], told.labels["deployment"], told.last) == (NAMESPACE, NAME, 1)
    (joined,) = await run.ask(
        'max by (namespace, deployment) (wenxin_operator_deployment_replicas{state="ready"})'
        " / on (namespace, deployment) count by (namespace, deployment) (wenxin_slots)"
    )
    assert joined.last == 1


async def test_every_dashboard_can_be_drawn_in_little_space(run: Rehearsal, tmp_path: Path) -> None:
    await asyncio.to_thread(draw.main, ["--prometheus", run.prometheus.url, "--minutes", "1", "--into", str(tmp_path)])
    assert sizes(tmp_path).keys() == {board.uid.removeprefix("wenxin-") for board in BOARDS}
    assert max(sizes(tmp_path).values()) < 300_000


def sizes(folder: Path) -> dict[str, int]:
    return {path.stem: path.stat().st_size for path in folder.glob("*.png")}


async def test_a_query_that_is_none_is_refused_with_prometheus_own_words(run: Rehearsal) -> None:
    with pytest.raises(QueryError, match="parse error"):
        await run.ask("sum(")
