"""`wenxin-operator crds` and `check`: what the chart's Jobs and `helm test` run."""

import asyncio
import copy
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from tests.wenxin_operator.fake_api import FakeApi
from wenxin_operator import check as checking
from wenxin_operator.__main__ import main
from wenxin_operator.api.schema import crds
from wenxin_operator.definitions import bring_up
from wenxin_operator.errors import OperatorError
from wenxin_operator.names import ANNOTATION_VERSION, Raw
from wenxin_operator.version import VERSION

GOOD = {"conditions": [{"type": "Established", "status": "True"}]}
TAKEN = {"conditions": [{"type": "NamesAccepted", "status": "False", "message": '"wd" is already in use'}]}


class Live:
    """An API server with definitions, which it establishes at once unless told otherwise."""

    def __init__(self, version: str | None = None, status: Raw | None = None) -> None:
        self.status = status or GOOD
        self.applied: list[str] = []
        self.all: dict[str, Raw] = {}
        for each in crds().values() if version is not None else ():
            metadata = {"name": each["metadata"]["name"], "annotations": {ANNOTATION_VERSION: version}}
            self.all[each["metadata"]["name"]] = {"metadata": metadata, "spec": "old", "status": GOOD}

    async def read_definition(self, name: str) -> Raw | None:
        return self.all.get(name)

    async def apply_definition(self, manifest: Raw) -> Raw:
        name = manifest["metadata"]["name"]
        self.applied.append(name)
        self.all[name] = copy.deepcopy(manifest) | {"status": self.status}
        return self.all[name]


def versioned(version: str) -> list[Raw]:
    found = copy.deepcopy(list(crds().values()))
    for each in found:
        each["metadata"]["annotations"][ANNOTATION_VERSION] = version
    return found


@pytest.mark.parametrize("before", [None, "", "nonsense", "0.0.9", "1.2.3-rc1", "1.2.3"])
async def test_what_is_older_or_absent_becomes_this_versions(before: str | None) -> None:
    live = Live(before)
    await bring_up(live, versioned("1.2.3"), patience=1)
    assert len(live.applied) == len(crds())
    assert all(each["spec"] != "old" for each in live.all.values())


@pytest.mark.parametrize("before", ["1.2.4", "1.3.0-rc1", "v2.0.0", "10.0.0"])
async def test_what_a_newer_version_wrote_stays_and_the_log_says_so(
    before: str, caplog: pytest.LogCaptureFixture
) -> None:
    live = Live(before)
    await bring_up(live, versioned("1.2.3"), patience=1)
    assert live.applied == []
    assert f"is of the newer version {before}, and stays as it is" in caplog.text


@pytest.mark.parametrize(("status", "says"), [(TAKEN, '"wd" is already in use'), ({"conditions": []}, "no condition")])
async def test_a_definition_that_is_not_served_is_an_error_with_the_reason(status: Raw, says: str) -> None:
    with pytest.raises(OperatorError, match=says):
        await bring_up(Live(status=status), crds().values(), patience=0.01)


def test_show_prints_what_lies_in_crds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crds", "show"], {}) == 0
    assert list(yaml.safe_load_all(capsys.readouterr().out)) == list(crds().values())


def test_the_definitions_carry_the_version_of_the_project() -> None:
    assert {each["metadata"]["annotations"][ANNOTATION_VERSION] for each in crds().values()} == {VERSION}


async def test_apply_talks_to_the_api_server_of_the_kubeconfig(api: FakeApi, kubeconfig: Path) -> None:
    environment = {"WENXIN_OPERATOR_KUBECONFIG": str(kubeconfig)}
    for each in crds().values():
        name = each["metadata"]["name"]
        metadata = {"namespace": "", "name": name, "uid": "1", "creationTimestamp": "", "generation": 1}
        old = {"metadata": {**metadata, "resourceVersion": "1"}, "spec": {"group": "old"}, "status": GOOD}
        api.objects["apiextensions.k8s.io/v1", "customresourcedefinitions", "", name] = old
    assert await asyncio.to_thread(main, ["crds", "apply"], environment) == 0
    assert all(each["spec"]["group"] == "serving.wenxin.io" for each in api.of("customresourcedefinitions"))
    assert {(each.verb, each.resource) for each in api.requests} == {
        ("get", "customresourcedefinitions"),
        ("patch", "customresourcedefinitions"),
    }


async def test_apply_without_the_right_says_so_and_fails(
    api: FakeApi, kubeconfig: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.allows = lambda request: request.verb == "get"
    environment = {"WENXIN_OPERATOR_KUBECONFIG": str(kubeconfig)}
    assert await asyncio.to_thread(main, ["crds", "apply"], environment) == 1
    assert "may not patch customresourcedefinitions" in capsys.readouterr().err


@pytest.fixture
async def copies() -> AsyncIterator[dict[str, Any]]:
    """A copy of the operator, as far as a check sees it."""
    state: dict[str, Any] = {"ready": 200, "leader": 1}

    async def ready(_: web.Request) -> web.Response:
        return web.Response(status=state["ready"], text="ok" if state["ready"] == 200 else "the store is not filled")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text=f"# TYPE wenxin_operator_leader gauge\nwenxin_operator_leader {state['leader']}.0\n")

    application = web.Application()
    application.add_routes([web.get("/readyz", ready), web.get("/metrics", metrics)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield state | {"port": runner.addresses[0][1], "state": state}
    await runner.cleanup()


async def test_a_ready_copy_that_leads_passes_the_check(copies: dict[str, Any]) -> None:
    assert await checking.check("127.0.0.1", copies["port"], patience=5) == "127.0.0.1 is ready and leads"


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"ready": 503}, "127.0.0.1: the store is not filled"),
        ({"leader": 0}, "0 of 1 copies hold the Lease"),
    ],
)
async def test_a_copy_that_is_not_well_fails_it_with_the_reason(
    copies: dict[str, Any], state: dict[str, int], says: str
) -> None:
    copies["state"].update(state)
    with pytest.raises(OperatorError, match=says):
        await checking.check("127.0.0.1", copies["port"], patience=0)


async def test_no_copy_at_all_fails_it(copies: dict[str, Any]) -> None:
    with pytest.raises(OperatorError, match=r"no copy of the operator is ready"):
        await checking.check("no-such-host.invalid", copies["port"], patience=0)
    with pytest.raises(OperatorError, match=r"127\.0\.0\.1: "):
        await checking.check("127.0.0.1", 1, patience=0)


async def test_it_waits_for_a_copy_that_becomes_ready(copies: dict[str, Any]) -> None:
    copies["state"]["ready"] = 503
    checked = asyncio.create_task(checking.check("127.0.0.1", copies["port"], patience=20))
    await asyncio.sleep(0)
    copies["state"]["ready"] = 200
    assert await checked == "127.0.0.1 is ready and leads"


def test_an_address_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "wenxin-operator"], {}) == 2
    assert "wenxin-operator is not HOST:PORT" in capsys.readouterr().err
