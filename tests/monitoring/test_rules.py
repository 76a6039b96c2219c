"""Every alert is tried where it fires and where it stays silent, and says what to do."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.alerts import FILES, alerts, groups
from monitoring.exposed import known, unknown
from monitoring.generate import CHART
from monitoring.prometheus import INSTALL
from monitoring.promql import read
from monitoring.rules import RUNBOOKS, Alert, Recording

ROOT = Path(__file__).parents[2]
TESTS = sorted(Path(__file__).with_name("rules").glob("*.yaml"))
NAMES = known(groups())
RULES = [rule for group in groups() for rule in group.rules]


def promtool(*arguments: str) -> str:
    assert shutil.which("promtool"), INSTALL
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


CASES: list[dict[str, Any]] = [case for path in TESTS for case in yaml.safe_load(path.read_text())["tests"]]


def cases(alert: Alert, verb: str) -> list[dict[str, Any]]:
    return [case for case in CASES if case["name"].startswith(f"{alert.name} {verb}: ")]


def samples(case: dict[str, Any]) -> list[dict[str, Any]]:
    return [sample for check in case["promql_expr_test"] for sample in check["exp_samples"]]


def test_the_rules_are_valid() -> None:
    assert "rules found" in promtool("check", "rules", *(str(CHART / "alerts" / name) for name in FILES))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_alerts_fire_and_stay_silent_as_their_tests_say(path: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", str(path))


def test_a_test_that_says_otherwise_is_noticed(tmp_path: Path) -> None:
    rules = str(CHART / "alerts" / "operator.yaml")
    text = TESTS[1].read_text().replace("../../../charts/wenxin-operator/alerts/operator.yaml", rules)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text.replace("value: 1", "value: 2", 1))
    with pytest.raises(AssertionError, match="FAILED"):
        promtool("test", "rules", str(wrong))


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_an_alert_is_tried_where_it_fires_and_where_it_is_nearly_so(alert: Alert) -> None:
    firing, silent = cases(alert, "fires"), cases(alert, "is silent")
    assert firing
    assert all(f'alertname="{alert.name}"' in sample["labels"] for case in firing for sample in samples(case))
    assert all(samples(case) for case in firing)
    assert silent
    assert not any(samples(case) for case in silent)
    for case in silent:
        given = {metric for series in case["input_series"] for metric in read(series["series"]).metrics}
        assert given & sources(alert.expr), case["name"]


def sources(expression: str) -> set[str]:
    """Scraped metrics that an expression goes back to."""
    recorded = {rule.record: rule.expr for rule in RULES if isinstance(rule, Recording)}
    return {
        each
        for name in read(expression).metrics
        for each in (read(recorded[name]).metrics if name in recorded else {name})
    }


def test_every_test_is_of_an_alert() -> None:
    tried = [case["name"] for case in CASES]
    ours = {alert.name for alert in alerts()}
    assert [name for name in tried if name.split(" ")[0] not in ours] == []
    assert len(tried) == len(set(tried))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: getattr(rule, "name", getattr(rule, "record", "")))
def test_a_rule_names_only_metrics_and_labels_that_exist(rule: Alert | Recording) -> None:
    assert list(unknown(rule.expr, NAMES)) == []


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_an_alert_says_what_is_wrong_and_leads_to_a_runbook(alert: Alert) -> None:
    body = alert.body()
    assert body["labels"]["severity"] in ("critical", "warning")
    notes = body["annotations"]
    assert notes["summary"]
    assert not notes["summary"].endswith(".")
    assert notes["description"][-1] in ".?"
    used = set(re.findall(r"\$labels\.(\w+)", notes["summary"] + notes["description"]))
    assert used <= read(alert.expr).grouped
    page, _, anchor = notes["runbook_url"].partition("#")
    assert page == RUNBOOKS
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in {heading.lower() for heading in headings}


def test_every_runbook_is_of_an_alert() -> None:
    headings = re.findall(r"^### (.+)$", (ROOT / RUNBOOKS).read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(alert.name for alert in alerts())


def test_names_are_the_projects_and_unique() -> None:
    names = [alert.name for alert in alerts()]
    assert all(name.startswith("Wenxin") for name in names)
    assert len(names) == len(set(names))
