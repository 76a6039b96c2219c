"""Raw API objects -> frozen snapshots. Pure: reads only what the store already holds, decides nothing."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from wenxin_operator import jobs, pods, scalers
from wenxin_operator.api.deployment import DeploymentSpec
from wenxin_operator.api.fields import claim_path
from wenxin_operator.api.model import ModelSpec, ModelStatus
from wenxin_operator.api.parsing import parse
from wenxin_operator.api.status import ModelFacts
from wenxin_operator.errors import SpecError
from wenxin_operator.jobs import JobSeen
from wenxin_operator.names import (
    COMPONENT_REDIS,
    COMPONENT_RUNTIME,
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    ENDPOINT_SLICE,
    HORIZONTAL_POD_AUTOSCALER,
    JOB,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
    LABEL_MODEL,
    LABEL_SERVICE_NAME,
    LEADER_WORKER_SET,
    NETWORK_POLICY,
    OWNER_LABEL,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    POD_DISRUPTION_BUDGET,
    SCALED_OBJECT,
    SERVICE,
    SERVICE_ACCOUNT,
    STATEFUL_SET,
    WENXIN_DEPLOYMENT,
    WENXIN_MODEL,
    WORKLOADS,
    Key,
    Raw,
)
from wenxin_operator.pods import PodSeen, Problem
from wenxin_operator.scalers import Scalers
from wenxin_operator.target import Target, VerifiedModel

T = TypeVar("T")

CHILD_KINDS = {
    WENXIN_DEPLOYMENT: (
        WENXIN_MODEL,
        SERVICE_ACCOUNT,
        NETWORK_POLICY,
        SERVICE,
        POD_DISRUPTION_BUDGET,
        CONFIG_MAP,
        DEPLOYMENT,
        STATEFUL_SET,
        LEADER_WORKER_SET,
        HORIZONTAL_POD_AUTOSCALER,
        SCALED_OBJECT,
        CONTROLLER_REVISION,
    ),
    WENXIN_MODEL: (NETWORK_POLICY, PERSISTENT_VOLUME_CLAIM, CONFIG_MAP, JOB),
}
"""What each primary kind owns, and so applies, repairs and prunes."""


class Reader(Protocol):
    """The last known state of the watched objects. Never blocks, never changes what it returned."""

    def get(self, kind: str, namespace: str, name: str) -> Raw | None:
        """One object, or None. None also while the watch has not told of it yet."""
        ...

    def children(self, kind: str, namespace: str, label: str, value: str) -> Sequence[Raw]:
        """All objects of `kind` in `namespace` whose label `label` is `value`."""
        ...

    def all(self, kind: str, namespace: str) -> Sequence[Raw]:
        """All known objects of `kind` in `namespace`."""
        ...

    def serves(self, kind: str) -> bool:
        """Whether the cluster has this kind; only an optional one may be missing."""
        ...


@dataclass(frozen=True, slots=True)
class ModelSeen:
    """The WenxinModel that a deployment asks for.

    Attributes:
        origin: What its spec says now.
        verified: Its weights, when an inspection of that origin has succeeded and nothing has gone wrong since.
        problem: Else why not, in the words of its condition Ready.
        preset: The released model that it asks for by name.
    """

    name: str
    origin: str
    verified: VerifiedModel | None
    problem: Problem | None
    preset: str | None = None


@dataclass(frozen=True, slots=True)
class DeploymentSnapshot:
    """All that one pass over a WenxinDeployment knows.

    Attributes:
        resource: The object itself.
        spec: Its spec, or why it is none.
        children: Objects that it controls, of the kinds in CHILD_KINDS.
        model: The WenxinModel that it asks for; None while there is none of that name.
        target: The last accepted spec with its weights, as the newest ControllerRevision keeps them.
        target_revision: That ControllerRevision's number; 0 without one.
        pods: Its serving pods of every revision, those on their way out included.
        serving: Names of the pods that the Service's EndpointSlices call ready.
        leader_worker_sets: The cluster has LeaderWorkerSets.
        busy: Sequences of those of its pods that were asked and answered, by name; None where none was asked.
        scalers: What sets the count besides its children.
        redis: The pods of its managed Redis.
        caches: What those of its pods that were asked say of their answer cache, by name: "ok" or "down".
    """

    resource: Raw
    spec: DeploymentSpec | SpecError
    children: tuple[Raw, ...]
    model: ModelSeen | None
    target: Target | None
    target_revision: int
    pods: tuple[PodSeen, ...]
    serving: frozenset[str]
    leader_worker_sets: bool
    busy: Mapping[str, int] | None = None
    scalers: Scalers = field(default_factory=Scalers)
    redis: tuple[PodSeen, ...] = ()
    caches: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """All that one pass over a WenxinModel knows.

    Attributes:
        resource: The object itself.
        spec: Its spec, or why it is none.
        status: Its status as last written.
        children: Objects that it controls, of the kinds in CHILD_KINDS.
        claim: The PersistentVolumeClaim that the weights lie on, or will; None while there is none of that name.
        jobs: Its inspect and download Jobs, by attempt.
        writers: Jobs, there or gone, with a pod that may still write to the claim.
        words: What the pod that downloads said at /load, once it was asked.
        held_on: Nodes whose pods mount its claim to serve it; looked for while a pod of its Jobs has yet to start.
    """

    resource: Raw
    spec: ModelSpec | SpecError
    status: ModelStatus
    children: tuple[Raw, ...]
    claim: Raw | None
    jobs: tuple[JobSeen, ...]
    writers: frozenset[str] = frozenset()
    words: Any = None
    held_on: frozenset[str] = frozenset()


def deployment(
    key: Key, reader: Reader, busy: Mapping[str, int] | None = None, caches: Mapping[str, str] | None = None
) -> DeploymentSnapshot | None:
    """See one WenxinDeployment and all that belongs to it; None when it is gone or going.

    Args:
        key: The resource.
        reader: What is known of the cluster.
        busy: Sequences of its pods, where they were asked.
        caches: What they say of their answer cache.
    """
    resource = _present(reader.get(key.kind, key.namespace, key.name))
    if resource is None:
        return None
    children = _children(resource, key, reader)
    revision = max(
        (child for child in children if child["kind"] == CONTROLLER_REVISION), key=_revision_number, default=None
    )
    slices = reader.children(ENDPOINT_SLICE, key.namespace, LABEL_DEPLOYMENT, key.name)
    every_pod = reader.children(POD, key.namespace, LABEL_DEPLOYMENT, key.name)
    return DeploymentSnapshot(
        resource=resource,
        spec=parse(DeploymentSpec, resource.get("spec")),
        children=children,
        model=_model_seen(resource, reader),
        target=Target.from_data(revision.get("data")) if revision else None,
        target_revision=_revision_number(revision) if revision else 0,
        pods=tuple(pods.see(pod) for pod in every_pod if _labels(pod).get(LABEL_COMPONENT) == COMPONENT_RUNTIME),
        # The headless Service of groups has slices too, and calls every pod in them ready.
        serving=frozenset(_ready_endpoints(one for one in slices if _labels(one).get(LABEL_SERVICE_NAME) == key.name)),
        leader_worker_sets=reader.serves(LEADER_WORKER_SET),
        busy=busy,
        scalers=scalers.see(resource, children, reader),
        redis=tuple(pods.see(pod) for pod in every_pod if _labels(pod).get(LABEL_COMPONENT) == COMPONENT_REDIS),
        caches=caches or {},
    )


def model(key: Key, reader: Reader, words: Mapping[str, Any] | None = None) -> ModelSnapshot | None:
    """See one WenxinModel and all that belongs to it; None when it is gone or going.

    Args:
        key: The resource.
        reader: What is known of the cluster.
        words: What the pods of its Jobs said at /load, by name, where they were asked.
    """
    resource = _present(reader.get(key.kind, key.namespace, key.name))
    if resource is None:
        return None
    spec = parse(ModelSpec, resource.get("spec"))
    claim = None
    if isinstance(spec, ModelSpec):
        claim = _present(reader.get(PERSISTENT_VOLUME_CLAIM, key.namespace, spec.where(key.name).claim))
    children = _children(resource, key, reader)
    job_pods = reader.children(POD, key.namespace, LABEL_MODEL, key.name)
    seen = [jobs.see(child, job_pods) for child in children if child["kind"] == JOB]
    return ModelSnapshot(
        resource=resource,
        spec=spec,
        status=_model_status(resource),
        children=children,
        claim=claim,
        jobs=tuple(sorted(seen, key=lambda job: job.attempt)),
        writers=jobs.writers(job_pods),
        words=next(iter((words or {}).values()), None),
        held_on=_held_on(key, reader) if any(job.node for job in seen) else frozenset(),
    )


def concerned(kind: str, thing: Raw, reader: Reader) -> frozenset[Key]:
    """Which resources need a pass when `thing` appeared, changed or went away.

    A child concerns its owner, a WenxinModel also the deployments that serve it, a claim the models that lie on it, an
    autoscaler what it scales.
    """
    namespace, name = thing["metadata"]["namespace"], thing["metadata"]["name"]
    keys = {
        Key(owner, namespace, value)
        for owner, label in OWNER_LABEL.items()
        if (value := _labels(thing).get(label)) is not None
    }
    if kind in OWNER_LABEL:
        keys.add(Key(kind, namespace, name))
    if kind == WENXIN_MODEL:
        users = (user for user in reader.all(WENXIN_DEPLOYMENT, namespace) if _model_name(user) == name)
        keys |= {Key(WENXIN_DEPLOYMENT, namespace, user["metadata"]["name"]) for user in users}
    if kind in scalers.SCALERS:
        keys |= _scaled(thing, reader)
    if kind == PERSISTENT_VOLUME_CLAIM:
        lying_on = (one for one in reader.all(WENXIN_MODEL, namespace) if _claim_name(one) == name)
        keys |= {Key(WENXIN_MODEL, namespace, one["metadata"]["name"]) for one in lying_on}
    return frozenset(keys)


def _scaled(scaler: Raw, reader: Reader) -> frozenset[Key]:
    """The deployment that a scaler, of whomever, sets the count of, by its own or by its pods' object."""
    namespace, (kind, name) = scaler["metadata"]["namespace"], scalers.target_of(scaler)
    if kind in WORKLOADS:
        labels = _labels(reader.get(kind, namespace, name) or {"metadata": {}})
        name = labels.get(LABEL_DEPLOYMENT, "")
    known = kind == WENXIN_DEPLOYMENT or kind in WORKLOADS
    return frozenset({Key(WENXIN_DEPLOYMENT, namespace, name)} if known and name else ())


def controlled_by(child: Raw, owner: Raw) -> bool:
    """Whether `owner` itself, and not an earlier object of its name, controls `child`."""
    references = child["metadata"].get("ownerReferences") or ()
    return any(one.get("controller") and one.get("uid") == owner["metadata"]["uid"] for one in references)


def conditions_of(resource: Raw) -> dict[str, Raw]:
    """A resource's conditions by type."""
    return {one["type"]: one for one in (resource.get("status") or {}).get("conditions") or ()}


def _held_on(key: Key, reader: Reader) -> frozenset[str]:
    """Nodes on which pods of deployments that ask for this model mount its claim."""
    users = (one for one in reader.all(WENXIN_DEPLOYMENT, key.namespace) if _model_name(one) == key.name)
    serving = (
        pod
        for user in users
        for pod in reader.children(POD, key.namespace, LABEL_DEPLOYMENT, user["metadata"]["name"])
        if _labels(pod).get(LABEL_COMPONENT) == COMPONENT_RUNTIME
        and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
    )
    return frozenset(node for pod in serving if (node := (pod.get("spec") or {}).get("nodeName")))


def _present(thing: Raw | None) -> Raw | None:
    return None if thing is None or thing["metadata"].get("deletionTimestamp") else thing


def _labels(thing: Raw) -> dict[str, str]:
    return thing["metadata"].get("labels") or {}


def _children(resource: Raw, key: Key, reader: Reader) -> tuple[Raw, ...]:
    found = (reader.children(kind, key.namespace, OWNER_LABEL[key.kind], key.name) for kind in CHILD_KINDS[key.kind])
    return tuple(child for children in found for child in children if controlled_by(child, resource))


def _revision_number(revision: Raw) -> int:
    return int(revision.get("revision", 0))


def _model_name(resource: Raw) -> str:
    """Name of the WenxinModel that a WenxinDeployment asks for, however malformed its spec."""
    choice = (resource.get("spec") or {}).get("model")
    reference = choice.get("ref") if isinstance(choice, dict) else None
    return str(reference or resource["metadata"]["name"])


def _claim_name(resource: Raw) -> str:
    """Name of the claim of somebody else's that a WenxinModel lies on, however malformed its spec."""
    spec = resource.get("spec") or {}
    storage = spec.get("storage")
    theirs = storage.get("existingClaim") if isinstance(storage, dict) else None
    return str(theirs or claim_path(str(spec.get("source", ""))).claim)


def _model_seen(resource: Raw, reader: Reader) -> ModelSeen | None:
    found = _present(reader.get(WENXIN_MODEL, resource["metadata"]["namespace"], _model_name(resource)))
    if found is None:
        return None
    name, spec = found["metadata"]["name"], parse(ModelSpec, found.get("spec"))
    origin = "" if isinstance(spec, SpecError) else spec.origin
    seen = ModelSeen(name, origin, None, None, None if isinstance(spec, SpecError) else spec.preset)
    status, ready = _model_status(found), conditions_of(found).get("Ready", {})
    if ready.get("observedGeneration") != found["metadata"].get("generation"):
        return replace(seen, problem=Problem("Inspecting", "the operator has yet to look at it"))
    if ready.get("status") != "True" or status.digest is None:
        return replace(seen, problem=Problem(ready.get("reason", "Unknown"), ready.get("message", "")))
    location = status.location if status.location != origin else None
    return replace(seen, verified=VerifiedModel(name, origin, status.digest, status.facts or ModelFacts(), location))


def _model_status(resource: Raw) -> ModelStatus:
    status = parse(ModelStatus, resource.get("status") or {}, "status")
    # A status that an older operator wrote otherwise is as good as none: the weights are inspected again.
    return ModelStatus() if isinstance(status, SpecError) else status


def _ready_endpoints(slices: Iterable[Raw]) -> Iterator[str]:
    for endpoint in (endpoint for one in slices for endpoint in one.get("endpoints") or ()):
        # An endpoint whose readiness is not given is to be taken as ready (discovery.k8s.io/v1).
        if (endpoint.get("conditions") or {}).get("ready") is not False and endpoint.get("targetRef"):
            yield endpoint["targetRef"]["name"]
