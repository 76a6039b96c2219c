"""Metrics are there before anything happens; log lines say which resource they are about; probes say how it is."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from wenxin_operator.names import WENXIN_DEPLOYMENT, WENXIN_MODEL, Key
from wenxin_operator.probes import Probes
from wenxin_operator.telemetry import ABOUT, VERSION, JsonLines, Telemetry, TextLines, log_to_stderr


def samples(telemetry: Telemetry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(telemetry.text().decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(telemetry: Telemetry, name: str, **labels: str) -> float:
    return samples(telemetry)[f"wenxin_operator_{name}", frozenset(labels.items())]


def resource(**conditions: str) -> dict[str, Any]:
    stated = [{"type": name, "status": status, "reason": "Told"} for name, status in conditions.items()]
    return {"metadata": {"namespace": "here", "name": "ernie"}, "status": {"conditions": stated}}


@pytest.fixture
def telemetry() -> Telemetry:
    stored = {
        WENXIN_DEPLOYMENT: [
            resource(Ready="True", Accepted="True"),
            resource(Ready="False", Accepted="True"),
            {"metadata": {"namespace": "here", "name": "new"}},
        ],
        WENXIN_MODEL: [],
    }
    telemetry = Telemetry()
    telemetry.show(
        queue=lambda: 3, running=lambda: 1, age=lambda: 12.5, leader=lambda: True, resources=stored.__getitem__
    )
    return telemetry


def test_counters_stand_at_zero_before_anything_happens(telemetry: Telemetry) -> None:
    for outcome in ("changed", "unchanged", "failed"):
        assert value(telemetry, "reconcile_total", kind=WENXIN_DEPLOYMENT, outcome=outcome) == 0
    assert value(telemetry, "reconcile_seconds_count", kind=WENXIN_MODEL) == 0
    assert value(telemetry, "writes_total", method="PATCH", resource="deployments") == 0
    assert value(telemetry, "writes_total", method="DELETE", resource="jobs") == 0


def test_what_is_looked_up_is_looked_up_when_asked(telemetry: Telemetry) -> None:
    assert value(telemetry, "queue_length") == 3
    assert value(telemetry, "queue_running") == 1
    assert value(telemetry, "watch_age_seconds") == 12.5
    assert value(telemetry, "leader") == 1


def test_resources_are_counted_by_condition(telemetry: Telemetry) -> None:
    for status, count in (("True", 1), ("False", 1), ("Unknown", 0)):
        assert value(telemetry, "resources", kind=WENXIN_DEPLOYMENT, condition="Ready", status=status) == count
        assert value(telemetry, "resources", kind=WENXIN_MODEL, condition="Ready", status=status) == 0
    assert value(telemetry, "resources", kind=WENXIN_DEPLOYMENT, condition="Accepted", status="True") == 2


def test_passes_and_requests_are_counted(telemetry: Telemetry) -> None:
    telemetry.passed(WENXIN_DEPLOYMENT, "changed", 0.02)
    telemetry.requested("GET", "pods", 200)
    telemetry.requested("WATCH", "pods", 200)
    telemetry.requested("PATCH", "deployments", 200)
    telemetry.requested("PATCH", "deployments", 0)
    assert value(telemetry, "reconcile_total", kind=WENXIN_DEPLOYMENT, outcome="changed") == 1
    assert value(telemetry, "reconcile_seconds_sum", kind=WENXIN_DEPLOYMENT) == pytest.approx(0.02)
    assert value(telemetry, "api_requests_total", method="GET", resource="pods", code="200") == 1
    assert value(telemetry, "api_requests_total", method="PATCH", resource="deployments", code="0") == 1
    assert value(telemetry, "writes_total", method="PATCH", resource="deployments") == 2
    assert ("wenxin_operator_writes_total", frozenset({("method", "WATCH"), ("resource", "pods")})) not in samples(
        telemetry
    )


def test_versions_and_the_process_are_there(telemetry: Telemetry) -> None:
    found = samples(telemetry)
    build = next(dict(labels) for name, labels in found if name == "wenxin_operator_build_info")
    assert build["version"] == VERSION
    assert any(name == "process_resident_memory_bytes" for name, _ in found)
    assert not any(name.endswith("_created") for name, _ in found)


def test_two_operators_in_one_process_count_apart() -> None:
    first, second = Telemetry(), Telemetry()
    first.passed(WENXIN_MODEL, "failed", 1)
    assert value(second, "reconcile_total", kind=WENXIN_MODEL, outcome="failed") == 0


def record(message: str = "hello", *arguments: object) -> logging.LogRecord:
    made = logging.getLogger("here").makeRecord("here", logging.WARNING, "file", 1, message, arguments, None)
    made.created = 0.5
    return made


@pytest.fixture
def about_a_model() -> Iterator[None]:
    token = ABOUT.set(Key(WENXIN_MODEL, "here", "ernie"))
    yield
    ABOUT.reset(token)


@pytest.mark.usefixtures("about_a_model")
def test_a_log_line_is_json_with_its_resource() -> None:
    line = json.loads(JsonLines().format(record("文 %s", "x")))
    assert line == {
        "time": "1970-01-01T00:00:00.500+00:00",
        "level": "warning",
        "logger": "here",
        "message": "文 x",
        "key": "WenxinModel/here/ernie",
    }


def test_a_log_line_carries_the_traceback_on_one_line() -> None:
    made = record()
    try:
        int("broken")
    except ValueError as error:
        made.exc_info = (type(error), error, error.__traceback__)
    line = JsonLines().format(made)
    assert "\n" not in line
    assert "ValueError: invalid literal" in json.loads(line)["error"]


@pytest.mark.usefixtures("about_a_model")
def test_a_line_for_people_ends_with_its_resource() -> None:
    assert TextLines().format(record()).endswith("here: hello  [WenxinModel/here/ernie]")


def test_a_line_about_no_resource_names_none() -> None:
    assert TextLines().format(record()).endswith("here: hello")
    assert "key" not in json.loads(JsonLines().format(record()))


@pytest.fixture
def logging_restored() -> Iterator[None]:
    root, kopf = logging.getLogger(), logging.getLogger("kopf")
    before = root.handlers[:], root.level, kopf.level
    yield
    root.handlers[:], root.level, kopf.level = before


@pytest.mark.usefixtures("logging_restored")
def test_kopfs_chatter_is_held_down_unless_debugging(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr("info", "json")
    logging.getLogger("kopf.objects").info("Handler succeeded.")
    logging.getLogger("wenxin_operator").info("ours")
    assert [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()] == ["ours"]


async def test_probes_tell_a_blind_copy_from_a_sighted_one_and_a_filled_from_an_empty() -> None:
    age, filled = 1.0, False
    probes = Probes(age=lambda: age, longest_age=600, filled=lambda: filled, telemetry=Telemetry())
    runner, port = await probes.listen("127.0.0.1", 0)

    async def ask(path: str) -> tuple[int, str]:
        async with session.get(f"http://127.0.0.1:{port}{path}") as response:
            return response.status, await response.text()

    async with aiohttp.ClientSession() as session:
        assert await ask("/healthz") == (200, "ok, last full list 1 s ago\n")
        assert await ask("/readyz") == (503, "the store is not filled yet\n")
        age, filled = 601, True
        assert await ask("/healthz") == (503, "no full list for 601 s (limit 600 s)\n")
        assert await ask("/readyz") == (200, "ok\n")
        status, text = await ask("/metrics")
        assert status == 200
        assert "wenxin_operator_build_info" in text
        assert (await ask("/elsewhere"))[0] == 404
    await runner.cleanup()
