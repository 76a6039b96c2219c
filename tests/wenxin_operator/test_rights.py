"""Least rights: each right of the chart's roles is used, and where one is taken away something is seen to fail."""

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.wenxin_operator.api_requests import Request
from tests.wenxin_operator.fake_api import FakeApi
from tests.wenxin_operator.running import CLAIM, deployment, finish_inspection, operating, until
from tests.wenxin_operator.test_chart import CHART, FETCHED, granted, rules
from wenxin_operator.api.schema import crds
from wenxin_operator.changes import NEVER_PRUNED
from wenxin_operator.errors import OperatorError
from wenxin_operator.names import (
    LEADER_WORKER_SET,
    POD,
    RESOURCES,
    SCALED_OBJECT,
    STATEFUL_SET,
    WENXIN_DEPLOYMENT,
    WENXIN_MODEL,
    Key,
    child_labels,
)
from wenxin_operator.observe import CHILD_KINDS

Rights = dict[tuple[str, str], set[str]]
READING = {"get", "list", "watch"}
KEDA = {"metrics_provider": "keda", "prometheus_address": "http://prometheus.monitoring.svc:9090"}


def rights_of(api: FakeApi, request: Request) -> set[str]:
    """What a real API server asks of whoever sends this: an apply of what does not exist is a create as well."""
    key = _version(request.group, request.resource), request.resource, request.namespace, request.name
    applies = "apply-patch" in request.content_type and "/" not in request.resource
    return {request.verb} | ({"create"} if applies and key not in api.objects else set())


def _version(group: str, plural: str) -> str:
    found = (each.api_version for each in RESOURCES.values() if each.plural == plural)
    return next((version for version in found if version.rpartition("/")[0] == group), "")


def left_behind(api: FakeApi, owner: dict[str, Any], kind: str) -> dict[str, Any]:
    """A child of a kind as an earlier version might have made it, under a name that no plan has."""
    alike = next(iter(api.of(RESOURCES[kind].plural)), {"spec": {"template": {"metadata": {}, "spec": {}}}})
    metadata = owner["metadata"]
    reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "controller": True}
    named = {"name": metadata["name"], "uid": metadata["uid"]}
    return {
        "apiVersion": RESOURCES[kind].api_version,
        "kind": kind,
        "metadata": {
            "namespace": metadata["namespace"],
            "name": f"{metadata['name']}-of-old",
            "labels": child_labels(Key(owner["kind"], metadata["namespace"], metadata["name"]), "old"),
            "ownerReferences": [reference | named],
        },
        **{field: alike[field] for field in ("spec", "data") if field in alike},
    }


CACHE = {"redis": {"managed": {}}}


def ernie(replicas: int = 2, **more: Any) -> dict[str, Any]:
    return deployment(replicas=replicas, autoscaling={"maxReplicas": 3}, answerCache=CACHE, **more)


@asynccontextmanager
async def world(api: FakeApi, kubeconfig: Path, *, keda: bool) -> AsyncIterator[asyncio.Task[None]]:
    """An operator whose resources make every kind of child, as far as one cluster can have them all."""
    api.lacks = {RESOURCES[LEADER_WORKER_SET].plural} if keda else {RESOURCES[SCALED_OBJECT].plural}
    await api.put(CLAIM)
    await api.put(ernie())
    await api.put(deployment("wide", model={"ref": "ernie"}, parallelism={"tensor": 2, "nodes": 2}))
    async with operating(kubeconfig, **(KEDA if keda else {})) as running:
        yield running


async def fetched(api: FakeApi) -> None:
    """The weights that are there are inspected, and others are asked for."""
    await finish_inspection(api)
    await api.put(FETCHED)


async def everything_happens(api: FakeApi, kubeconfig: Path, *, keda: bool) -> None:
    groups = STATEFUL_SET if keda else LEADER_WORKER_SET
    async with world(api, kubeconfig, keda=keda):
        await until(lambda: api.of("jobs"))
        await fetched(api)
        await until(lambda: api.of("deployments") and api.of(RESOURCES[groups].plural) and len(api.of("jobs")) > 1)
        await shrink(api)
        await outgrow(api)
        await api.put(ernie(image="not an image"))
        await until(lambda: any(each.resource == "events" for each in api.requests))


async def shrink(api: FakeApi) -> None:
    """One of two replicas is to go."""
    (made,) = api.of("deployments")
    serves = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    for number in range(2):
        labels = made["spec"]["template"]["metadata"]["labels"]
        metadata = {"namespace": "here", "name": f"ernie-{number}", "labels": labels}
        await api.put({"apiVersion": "v1", "kind": POD, "metadata": metadata, "status": serves})
    await until(lambda: (api.get(WENXIN_DEPLOYMENT, "here", "ernie") or {})["status"].get("replicas") == 2)
    await api.put(ernie(replicas=1))
    await until(lambda: api.of("deployments")[0]["spec"]["replicas"] == 1)


async def outgrow(api: FakeApi) -> None:
    """What an earlier version made, and this one does not plan, goes."""
    for kind, name in ((WENXIN_DEPLOYMENT, "ernie"), (WENXIN_MODEL, "fetched")):
        live = api.get(kind, "here", name)
        assert live
        for child in set(CHILD_KINDS[kind]) - NEVER_PRUNED:
            if RESOURCES[child].plural not in api.lacks:
                await api.put(left_behind(api, live, child))
    await until(lambda: not [key for key in api.objects if key[3].endswith("-of-old")])


async def used_rights(api: FakeApi, kubeconfig: Path) -> Rights:
    used: Rights = defaultdict(set)

    def judge(request: Request) -> bool:
        used[request.group, request.resource] |= rights_of(api, request)
        return True

    api.allows = judge
    await everything_happens(api, kubeconfig, keda=False)
    await forget(api)
    await everything_happens(api, kubeconfig, keda=True)
    return used


async def forget(api: FakeApi) -> None:
    """As if the cluster were new."""
    api.objects.clear()
    api.compact()


async def test_every_right_is_used_and_what_is_used_is_granted(api: FakeApi, kubeconfig: Path) -> None:
    used = await used_rights(api, kubeconfig)
    leases = used.pop(("coordination.k8s.io", "leases"))
    assert leases == lease_rights()
    unused = {name: set(verbs) - used[name] for name, verbs in granted().items() if set(verbs) - used[name]}
    assert unused.pop(("events.k8s.io", "events")) == {"patch"}, "the same event again: test_cluster.py"
    assert unused == {}, "granted, and never used"
    missing = {name: verbs - granted().get(name, set()) for name, verbs in used.items()}
    assert not any(missing.values()), "used, and not granted"


def lease_rights() -> set[str]:
    text = (CHART / "templates" / "rbac.yaml").read_text()
    return {verb for verbs in re.findall(r"resources: \[leases\]\n.*?verbs: \[(.+?)\]", text, re.DOTALL)
            for verb in verbs.split(", ")}  # fmt: skip


def test_the_right_to_definitions_is_for_ours_alone() -> None:
    text = (CHART / "templates" / "crds-hook.yaml").read_text()
    (rule, create) = yaml.safe_load(text.split("\nrules:\n")[1].split("\n---\n")[0])
    assert set(rule["resourceNames"]) == {each["metadata"]["name"] for each in crds().values()}
    assert (rule["verbs"], create["verbs"]) == (["get", "patch"], ["create"])


def _without() -> list[Any]:
    """For each rule: what is taken away, writes and reads apart, so that a failing list does not hide a write."""
    return [
        pytest.param(rule, verbs, id=f"{'+'.join(rule['resources'])}: {' '.join(sorted(verbs))}")
        for rule in rules()
        for verbs in (set(rule["verbs"]) & {"list", "watch"}, set(rule["verbs"]) - {"list", "watch"})
        if verbs
    ]


@pytest.mark.parametrize(("rule", "verbs"), _without())
async def test_without_a_right_something_is_seen_to_fail(
    api: FakeApi, kubeconfig: Path, caplog: pytest.LogCaptureFixture, rule: dict[str, list[str]], verbs: set[str]
) -> None:
    caplog.set_level("WARNING")
    denied = {(group, resource) for group in rule["apiGroups"] for resource in rule["resources"]}
    api.allows = lambda request: not ((request.group, request.resource) in denied and rights_of(api, request) & verbs)
    keda = bool({"scaledobjects", "statefulsets"} & set(rule["resources"]))

    def seen() -> bool:
        conditions = [
            condition["message"]
            for each in (*api.of("wenxindeployments"), *api.of("wenxinmodels"))
            for condition in (each.get("status") or {}).get("conditions", ())
        ]
        words = [record.getMessage() for record in caplog.records] + conditions
        return any(f"may not {verb} {resource}" in text for text in words for verb in (*verbs, "patch", "list", "watch")
                   for resource in rule["resources"])  # fmt: skip

    with suppress(OperatorError):
        async with world(api, kubeconfig, keda=keda):
            await until(lambda: seen() or api.of("jobs"))
            if not seen():
                await fetched(api)
                await until(lambda: seen() or (api.of("deployments") and len(api.of("jobs")) > 1))
            if not seen() and "pods" in rule["resources"]:
                with suppress(TimeoutError):
                    async with asyncio.timeout(2):
                        await shrink(api)
            await until(seen)
