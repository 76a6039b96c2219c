"""A cluster in memory: the seam of a pass (Reader and Writer), the API server's defaults and generations, and the
built-in controllers' part on command. `writes` lists what was written, for tests that want nothing to be.
"""

import copy
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.contract.inspected import INSPECTED
from wenxin_operator.api.schema import crds
from wenxin_operator.errors import ApiError, NotFound
from wenxin_operator.events import Event
from wenxin_operator.names import (
    DEPLOYMENT,
    ENDPOINT_SLICE,
    JOB,
    LABEL_DEPLOYMENT,
    LABEL_SERVICE_NAME,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    RESOURCES,
    SERVICE,
    WENXIN_DEPLOYMENT,
    WENXIN_MODEL,
    Key,
    Raw,
)
from wenxin_operator.reconcile import Outcome, reconcile

NAMESPACE = "team"
FACTS = {name: value for name, value in INSPECTED.items() if name != "digest"}
_SCHEMAS = {
    crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for crd in crds().values()
}


@dataclass(frozen=True)
class Settings:
    runtime_image: str = "registry.example/wenxin/runtime:1"
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    redis_image: str = "redis:8-alpine"
    lease_namespace: str = "wenxin-system"
    metrics_provider: str = "embedded"
    prometheus_address: str = ""


@dataclass
class FakeCluster:
    """Implements reconcile.Reader and reconcile.Writer.

    Attributes:
        now: The time; `sleep` moves it on.
        writes: What the operator wrote, such as "apply Deployment ernie".
        events: What it posted.
        refuse: Raises what a call shall fail with, given its verb and the object.
        served: Optional kinds that the cluster has.
        says: What pods answer when they are asked, by name.
        made: Secrets, by name, which nobody can read here.
        hidden: Kinds and names that the watch has not told of: `read` finds them, `get` does not.
    """

    settings: Settings = field(default_factory=Settings)
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    objects: dict[tuple[str, str], Raw] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    refuse: Callable[[str, Raw], ApiError | None] = lambda _verb, _thing: None
    hidden: set[tuple[str, str]] = field(default_factory=set)
    served: set[str] = field(default_factory=set)
    says: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Raw] = field(default_factory=dict)
    _numbers: itertools.count = field(default_factory=lambda: itertools.count(1))
    _applied: dict[tuple[str, str], Raw] = field(default_factory=dict)

    # Reader

    def get(self, kind: str, namespace: str, name: str) -> Raw | None:
        assert namespace == NAMESPACE
        return None if (kind, name) in self.hidden else self.objects.get((kind, name))

    def children(self, kind: str, namespace: str, label: str, value: str) -> Sequence[Raw]:
        return [one for one in self.all(kind, namespace) if one["metadata"].get("labels", {}).get(label) == value]

    def all(self, kind: str, namespace: str) -> Sequence[Raw]:
        assert namespace == NAMESPACE
        found = [key for key in self.objects if key[0] == kind and key not in self.hidden]
        return [self.objects[key] for key in sorted(found)]

    def serves(self, kind: str) -> bool:
        return not RESOURCES[kind].optional or kind in self.served

    # Writer

    async def read(self, kind: str, namespace: str, name: str) -> Raw | None:
        assert namespace == NAMESPACE
        return self.objects.get((kind, name))

    async def apply(self, manifest: Raw) -> Raw:
        self._may("apply", manifest)
        key = _key(manifest)
        bare = copy.deepcopy(self.objects.get(key, {}))
        _drop_absent(bare, self._applied.get(key, {}), manifest)
        self._applied[key] = copy.deepcopy(manifest)
        return self._store(_merged(bare, manifest))

    async def overwrite(self, manifest: Raw) -> Raw:
        self._may("overwrite", manifest)
        return self._store(_merged(copy.deepcopy(self.objects[_key(manifest)]), manifest))

    async def delete(self, target: Raw) -> None:
        self._may("delete", target)
        self.remove(target["kind"], target["metadata"]["name"])

    async def apply_status(self, resource: Raw, status: Raw) -> Raw:
        self._may("status", resource)
        if _key(resource) not in self.objects:
            raise NotFound("gone", status=404)
        return self._store({**self.objects[_key(resource)], "status": copy.deepcopy(status)})

    async def make_once(self, manifest: Raw) -> None:
        name = manifest["metadata"]["name"]
        if name in self.made:
            return
        self._may("make", manifest)
        self.made[name] = manifest

    async def annotate(self, thing: Raw, annotations: Mapping[str, str]) -> None:
        live = self.objects.get(_key(thing))
        if live is None or live["metadata"]["uid"] != thing["metadata"]["uid"]:
            raise NotFound("gone", status=404)
        self._may("annotate", thing)
        metadata = {**live["metadata"], "annotations": {**live["metadata"].get("annotations", {}), **annotations}}
        self._store({**live, "metadata": metadata})

    async def emit(self, event: Event) -> None:
        self.events.append(event)

    async def ask(self, pod: Raw) -> Any:
        return self.says.get(pod["metadata"]["name"])

    # The team's hands

    def create(self, kind: str, name: str, spec: Raw | None = None, **body: Any) -> Raw:
        """What `kubectl create` does."""
        thing = {"apiVersion": RESOURCES[kind].api_version, "kind": kind, "metadata": {"name": name}, **body}
        return self._store(thing if spec is None else {**thing, "spec": spec})

    def edit(self, kind: str, name: str, change: Callable[[Raw], Any]) -> None:
        """What `kubectl edit` does."""
        thing = copy.deepcopy(self.objects[kind, name])
        change(thing)
        self._store(thing)

    def remove(self, kind: str, name: str) -> None:
        """What `kubectl delete` does, the garbage collector's part included."""
        gone = self.objects.pop((kind, name))
        self._applied.pop((kind, name), None)
        for key, thing in list(self.objects.items()):
            owners = thing["metadata"].get("ownerReferences", ())
            if key in self.objects and any(owner["uid"] == gone["metadata"]["uid"] for owner in owners):
                self.remove(*key)

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)

    # The operator

    async def run(self, kind: str, name: str) -> Outcome:
        """One pass."""
        return await reconcile(Key(kind, NAMESPACE, name), self, self, self.settings, self.now)

    async def settle(self) -> list[str]:
        """Passes over everything until nothing is written; returns what was written on the way."""
        self.writes.clear()
        for _ in range(10):
            before = len(self.writes)
            for kind in (WENXIN_MODEL, WENXIN_DEPLOYMENT):
                for resource in self.all(kind, NAMESPACE):
                    await self.run(kind, resource["metadata"]["name"])
            if len(self.writes) == before:
                return list(self.writes)
        raise AssertionError(f"never at rest: {self.writes}")

    # The built-in controllers, on command

    def finish_inspection(self, model: str, result: Raw | None = None, *, failed: Raw | str | None = None) -> None:
        """The newest inspect Job ends, with what it printed."""
        jobs = [key for key in self.objects if key[0] == JOB and key[1].startswith(f"{model}-inspect-")]
        name = max(jobs, key=lambda key: int(key[1].rpartition("-")[2]))[1]
        job = self.objects[JOB, name]
        outcome = "Failed" if failed else "Complete"
        words = failed if isinstance(failed, str) else json.dumps(failed or result or INSPECTED)
        ended = {"exitCode": 3 if failed else 0, "reason": "Error" if failed else "Completed", "message": words}
        self._store(
            {
                "apiVersion": "v1",
                "kind": POD,
                "metadata": {
                    "name": f"{name}-x",
                    "labels": {**job["spec"]["template"]["metadata"]["labels"], "batch.kubernetes.io/job-name": name},
                    "ownerReferences": [{"uid": job["metadata"]["uid"]}],
                },
                "status": {
                    "phase": "Failed" if failed else "Succeeded",
                    "containerStatuses": [{"name": "inspect", "ready": False, "state": {"terminated": ended}}],
                },
            }
        )
        at = self.now.strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {"type": outcome, "status": "True", "lastTransitionTime": at}
        self._store({**job, "status": {"conditions": [condition]}})

    def run_pods(self, name: str, *, ready: bool | int = True, status: Raw | None = None) -> None:
        """The Deployment's controller brings its pods to the newest template; `ready` of them stand in a slice."""
        live = self.objects[DEPLOYMENT, name]
        for pod in self.children(POD, NAMESPACE, LABEL_DEPLOYMENT, name):
            self.remove(POD, pod["metadata"]["name"])
        count = live["spec"]["replicas"]
        good = count if ready is True else int(ready)
        for number in range(count):
            self.add_pod(name, f"{name}-{number}", ready=number < good, status=status)
        self.publish(name)

    def add_pod(self, name: str, pod: str, *, ready: bool = True, status: Raw | None = None) -> None:
        """One more pod from the Deployment's present template."""
        live = self.objects[DEPLOYMENT, name]
        template = live["spec"]["template"]
        metadata = {**template["metadata"], "name": pod, "ownerReferences": [{"uid": live["metadata"]["uid"]}]}
        state = {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}]}
        told = state if ready or status is None else status
        self._store({"apiVersion": "v1", "kind": POD, "metadata": metadata, "status": told})

    def publish(self, name: str, *, without: Iterable[str] = ()) -> None:
        """The EndpointSlice controller writes what it sees; `without` are pods that it has not seen yet."""
        chosen = self.objects[SERVICE, name]["spec"]["selector"].items()
        pods = [one for one in self.all(POD, NAMESPACE) if chosen <= one["metadata"]["labels"].items()]
        endpoints = [
            {
                "conditions": {"ready": pod["status"]["conditions"][0]["status"] == "True"},
                "targetRef": {"kind": "Pod", "name": pod["metadata"]["name"]},
            }
            for pod in pods
            if pod["metadata"]["name"] not in without and "conditions" in pod["status"]
        ]
        service = self.objects[SERVICE, name]
        metadata = {
            "name": f"{name}-slice",
            "labels": service["metadata"]["labels"] | {LABEL_SERVICE_NAME: name},
            "ownerReferences": [{"uid": service["metadata"]["uid"]}],
        }
        kind = {"apiVersion": RESOURCES[ENDPOINT_SLICE].api_version, "kind": ENDPOINT_SLICE}
        self._store({**kind, "metadata": metadata, "endpoints": endpoints})

    # Looking

    def names(self, kind: str) -> list[str]:
        """Names of all objects of a kind."""
        return sorted(name for found, name in self.objects if found == kind)

    def condition(self, kind: str, name: str, wanted: str) -> Raw:
        """One condition of a resource."""
        (found,) = [one for one in self.objects[kind, name]["status"]["conditions"] if one["type"] == wanted]
        return found

    def conditions(self, kind: str, name: str) -> dict[str, str]:
        """Status of every condition of a resource."""
        return {one["type"]: one["status"] for one in self.objects[kind, name]["status"]["conditions"]}

    def _may(self, verb: str, thing: Raw) -> None:
        if error := self.refuse(verb, thing):
            raise error
        self.writes.append(f"{verb} {thing['kind']} {thing['metadata']['name']}")

    def _store(self, thing: Raw) -> Raw:
        """Take it as the API server does: defaults, uid, generation, resourceVersion."""
        key = _key(thing)
        old, metadata = self.objects.get(key), dict(thing["metadata"])
        metadata.setdefault("namespace", NAMESPACE)
        metadata.setdefault("uid", f"uid-{next(self._numbers)}")
        if thing["kind"] in _SCHEMAS:
            thing = {**thing, "spec": defaulted(_SCHEMAS[thing["kind"]]["properties"]["spec"], thing["spec"])}
        generation = old["metadata"]["generation"] if old else 0
        metadata["generation"] = generation if old and old.get("spec") == thing.get("spec") else generation + 1
        new = {
            **thing,
            "metadata": {**metadata, "resourceVersion": (old or {}).get("metadata", {}).get("resourceVersion")},
        }
        if new != old:
            new["metadata"]["resourceVersion"] = str(next(self._numbers))
            self.objects[key] = new
        return self.objects[key]


def claim(cluster: FakeCluster, name: str = "weights") -> None:
    """A bound PersistentVolumeClaim."""
    cluster.create(PERSISTENT_VOLUME_CLAIM, name, {}, status={"phase": "Bound"})


def _key(thing: Raw) -> tuple[str, str]:
    return thing["kind"], thing["metadata"]["name"]


def _merged(live: Any, planned: Any) -> Any:
    """Mappings are merged, but for selectors; all else is replaced."""
    if not isinstance(live, dict) or not isinstance(planned, dict):
        return copy.deepcopy(planned)
    return live | {key: _merged(None if key == "selector" else live.get(key), value) for key, value in planned.items()}


def _drop_absent(live: Raw, before: Raw, now: Raw) -> None:
    """Take away what the last apply set and this one no longer mentions."""
    for key, value in before.items():
        if key not in now:
            live.pop(key, None)
        elif all(isinstance(one.get(key), dict) for one in (live, before, now)):
            _drop_absent(live[key], value, now[key])


def defaulted(schema: Raw, value: Any) -> Any:
    """The API server's structural defaulting."""
    if isinstance(value, list):
        return [defaulted(schema.get("items", {}), item) for item in value]
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties", {})
    missing = {key: child["default"] for key, child in properties.items() if "default" in child and key not in value}
    return {key: defaulted(properties.get(key, {}), item) for key, item in (value | missing).items()}
