"""The whole operator in one process against the small API server: start, work, rest, hand over, end."""

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.wenxin_operator.fake_api import FakeApi
from tests.wenxin_operator.running import CLAIM, deployment, finish_inspection, operating, quiet, until
from wenxin_operator.__main__ import main
from wenxin_operator.errors import LeaseLost, WatchLost
from wenxin_operator.names import JOB, RESOURCES, SERVICE, WENXIN_DEPLOYMENT, WENXIN_MODEL


def holder(api: FakeApi) -> str:
    return next((lease["spec"]["holderIdentity"] for lease in api.of("leases")), "")


def children(api: FakeApi) -> set[str]:
    """The resources that hold something of ours, events and the lease left out."""
    return {plural for _, plural, namespace, _ in api.objects if namespace == "here"} - {"events"}


async def test_a_resource_gets_its_children_and_a_status_and_then_there_is_rest(api: FakeApi, kubeconfig: Path) -> None:
    await api.put(CLAIM)
    async with operating(kubeconfig):
        await api.put(deployment())
        await until(lambda: (api.get(WENXIN_DEPLOYMENT, "here", "ernie") or {}).get("status"))
        await until(lambda: api.of("jobs"))
        await quiet(api)
        made = api.get(WENXIN_DEPLOYMENT, "here", "ernie")
        assert made
        assert made["metadata"].keys() == {
            "namespace", "name", "uid", "creationTimestamp", "generation", "resourceVersion",
        }, "neither finalizer nor annotation"  # fmt: skip
        written = len(api.writes())
        api.cut_watches()
        await asyncio.sleep(1)
        assert len(api.writes()) == written, "at rest nothing is written"
    assert {"services", "jobs", "serviceaccounts", "networkpolicies", "wenxinmodels"} <= children(api)
    assert api.get(WENXIN_MODEL, "here", "ernie")
    assert holder(api) == "", "the lease is given back"


async def test_a_child_that_somebody_deletes_comes_back(api: FakeApi, kubeconfig: Path) -> None:
    await api.put(CLAIM)
    await api.put(deployment())
    async with operating(kubeconfig):
        await until(lambda: api.get(SERVICE, "here", "ernie"))
        await quiet(api)
        await api.remove(SERVICE, "here", "ernie")
        await until(lambda: api.get(SERVICE, "here", "ernie"))


async def test_a_deletion_that_no_watch_told_is_found_by_the_next_list(api: FakeApi, kubeconfig: Path) -> None:
    await api.put(CLAIM)
    await api.put(deployment())
    async with operating(kubeconfig, resync_interval=1.0):
        await until(lambda: api.get(SERVICE, "here", "ernie"))
        await api.remove(SERVICE, "here", "ernie", silently=True)
        await until(lambda: api.get(SERVICE, "here", "ernie"))


async def test_a_deletion_in_the_gap_of_a_watch_is_found_as_soon_as_it_watches_again(
    api: FakeApi, kubeconfig: Path
) -> None:
    await api.put(CLAIM)
    await api.put(deployment())
    async with operating(kubeconfig):
        await until(lambda: api.get(SERVICE, "here", "ernie"))
        await quiet(api)
        await api.remove(SERVICE, "here", "ernie", silently=True)
        api.compact()
        api.cut_watches()
        await until(lambda: api.get(SERVICE, "here", "ernie"))


async def test_an_operator_that_starts_after_the_fact_does_the_same(api: FakeApi, kubeconfig: Path) -> None:
    await api.put(CLAIM)
    await api.put(deployment())
    async with operating(kubeconfig):
        await until(lambda: api.of("jobs"))
    first = {plural: len(api.of(plural)) for plural in children(api)}
    async with operating(kubeconfig):
        await until(lambda: holder(api) == "me")
        await quiet(api)
    assert {plural: len(api.of(plural)) for plural in children(api)} == first


async def test_an_api_server_that_fails_for_a_while_is_outlived(api: FakeApi, kubeconfig: Path) -> None:
    await api.put(CLAIM)
    async with operating(kubeconfig, lease_duration=60.0, lease_renew_deadline=30.0, backoff_max=0.5):
        await until(lambda: holder(api) == "me")
        api.down = True
        api.cut_watches()
        await asyncio.sleep(0.5)
        api.down = False
        await api.put(deployment())
        await until(lambda: api.of("jobs"))


async def test_losing_the_lease_ends_the_copy(api: FakeApi, kubeconfig: Path) -> None:
    async with operating(kubeconfig) as task:
        await until(lambda: holder(api) == "me")
        (lease,) = api.of("leases")
        await api.put(
            {
                **lease,
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "spec": {**lease["spec"], "holderIdentity": "thief"},
            }
        )
        with pytest.raises(LeaseLost, match="thief holds it now"):
            await asyncio.wait_for(task, 15)
    assert holder(api) == "thief"


async def test_a_copy_without_the_lease_watches_but_does_not_work(api: FakeApi, kubeconfig: Path) -> None:
    lease = {
        "metadata": {"namespace": "system", "name": "wenxin-operator"},
        "spec": {"holderIdentity": "other", "leaseDurationSeconds": 3600},
    }
    await api.put({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **lease})
    await api.put(CLAIM)
    async with operating(kubeconfig):
        await until(lambda: sum(each.verb == "watch" for each in api.requests) >= len(RESOURCES))
        await api.put(deployment())
        await asyncio.sleep(0.5)
        assert api.writes() == []


async def test_a_cluster_may_be_without_leader_worker_sets_and_get_them_later(
    api: FakeApi, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wenxin_operator.handlers.GUARD_SECONDS", 0.05)
    monkeypatch.setattr("wenxin_operator.handlers.BEGIN_SECONDS", 1.0)
    wide = {"parallelism": {"tensor": 2, "nodes": 2}}
    api.lacks = {"leaderworkersets"}
    await api.put(CLAIM)
    await api.put(deployment(**wide))
    async with operating(kubeconfig, resync_interval=1.0) as task:
        await until(lambda: api.of("jobs"))
        await finish_inspection(api)
        await until(lambda: api.of("statefulsets"))
        api.lacks.clear()
        asked = len(api.requests)
        # The second round began after the first had ended, and with it what it found was known.
        await until(lambda: [each.resource for each in api.requests[asked:]].count("leaderworkersets") > 1)
        await api.put(deployment("later", model={"ref": "ernie"}, **wide))
        await until(lambda: api.of("leaderworkersets"))
        assert not task.done(), "it is no watch that is missing"
    assert not any(each.verb == "watch" and each.resource == "leaderworkersets" for each in api.requests)
    assert {thing["metadata"]["labels"]["serving.wenxin.io/deployment"] for thing in api.of("statefulsets")} == {
        "ernie"
    }


async def test_definitions_that_come_late_are_waited_for(
    api: FakeApi, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("wenxin_operator.resync.FIRST_TRY_SECONDS", 0.05)
    api.allows = lambda each: not each.resource.startswith("wenxin")
    await api.put(CLAIM)
    await api.put(deployment())
    async with operating(kubeconfig):
        await until(lambda: "cannot list WenxinDeployment" in caplog.text)
        assert not any(each.verb == "watch" for each in api.requests)
        api.allows = lambda _: True
        await until(lambda: api.of("jobs"))


async def test_a_watch_that_fails_for_good_ends_the_copy(
    api: FakeApi, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wenxin_operator.handlers.GUARD_SECONDS", 0.1)
    monkeypatch.setattr("wenxin_operator.handlers.BEGIN_SECONDS", 1.0)
    async with operating(kubeconfig) as task:
        await until(lambda: holder(api) == "me")
        api.watch_error = 500
        await api.put(deployment())
        with pytest.raises(WatchLost, match=rf"only \d+ of {len(RESOURCES)} watches are alive"):
            await asyncio.wait_for(task, 15)
    assert holder(api) == "", "the lease is given back"


async def test_a_signal_while_nothing_can_be_listed_ends_the_copy(api: FakeApi, kubeconfig: Path) -> None:
    api.down = True
    async with operating(kubeconfig):
        await asyncio.sleep(0.2)


async def test_a_refused_write_is_told_and_tried_again(api: FakeApi, kubeconfig: Path) -> None:
    api.allows = lambda each: each.verb != "patch" or each.resource != "services"
    await api.put(CLAIM)
    await api.put(deployment())
    async with operating(kubeconfig, backoff_initial=0.05, backoff_max=0.1):
        await until(lambda: sum(each.resource == "services" and each.verb == "patch" for each in api.requests) > 2)
        api.allows = lambda _: True
        await until(lambda: api.get(SERVICE, "here", "ernie"))


async def test_only_the_namespaces_that_are_served_are_worked_on(api: FakeApi, kubeconfig: Path) -> None:
    await api.put(CLAIM)
    await api.put(deployment())
    await api.put({**deployment(), "metadata": {"namespace": "elsewhere", "name": "other"}})
    async with operating(kubeconfig, watch_namespaces=("here",)):
        await until(lambda: api.of("jobs"))
        await quiet(api)
    assert {each.namespace for each in api.requests if each.resource != "leases"} == {"here"}
    other = api.get(WENXIN_DEPLOYMENT, "elsewhere", "other")
    assert other
    assert "status" not in other


async def test_the_program_runs_from_the_environment_and_ends_at_a_signal(api: FakeApi, kubeconfig: Path) -> None:
    await api.put(CLAIM)
    await api.put(deployment())
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("WENXIN_OPERATOR_")},
        "WENXIN_OPERATOR_KUBECONFIG": str(kubeconfig),
        "WENXIN_OPERATOR_HTTP_PORT": "0",
        "WENXIN_OPERATOR_METRICS_HTTPS_PORT": "0",
        "WENXIN_OPERATOR_HTTP_HOST": "127.0.0.1",
        "WENXIN_OPERATOR_LEASE_NAMESPACE": "system",
        "PYTHONWARNINGS": "error",
    }
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "wenxin_operator", env=environment, stderr=asyncio.subprocess.PIPE
    )
    assert program.stderr
    try:
        log = b""
        async with asyncio.timeout(30):
            while b"metrics on port" not in log:
                log += await program.stderr.readline()
        found = re.search(rb"metrics on port (\d+)", log)
        assert found
        await until(lambda: "status" in (api.get(WENXIN_DEPLOYMENT, "here", "ernie") or {}) and api.of("jobs"))
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{int(found[1])}/metrics") as answer,
        ):
            text = await answer.text()
        assert 'wenxin_operator_writes_total{method="PATCH",resource="jobs"} 1.0' in text
        assert "wenxin_operator_leader 1.0" in text
        assert 'wenxin_operator_resources{condition="Ready",kind="WenxinDeployment",status="False"} 1.0' in text
        program.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            rest = await program.stderr.read()
            assert await program.wait() == 0, rest.decode()
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    assert b"Traceback" not in log + rest
    assert b'"key": "WenxinDeployment/here/ernie"' in log + rest
    assert api.get(JOB, "here", api.of("jobs")[0]["metadata"]["name"])


def test_a_wrong_setting_ends_the_program_with_code_2_and_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], {"WENXIN_OPERATOR_WORKERS": "none"}) == 2
    assert capsys.readouterr().err.startswith("wenxin-operator: WENXIN_OPERATOR_WORKERS: ")


def test_a_missing_kubeconfig_ends_the_program_with_code_2_and_its_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], {"WENXIN_OPERATOR_KUBECONFIG": "/nowhere/config", "WENXIN_OPERATOR_HTTP_PORT": "0"}) == 2
    assert "kubeconfig /nowhere/config" in capsys.readouterr().err


def test_help_teaches_what_to_do_and_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"], {})
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "kubectl apply -f examples/tiny.yaml" in text
    assert "WENXIN_OPERATOR_WATCH_NAMESPACES" in text


def test_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"], {})
    assert re.fullmatch(r"wenxin-operator \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)
