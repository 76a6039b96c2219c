"""The pod template, the same for every kind of object that makes pods, and the Deployment."""

import math
from dataclasses import dataclass
from typing import Any

from wenxin_operator import rollout
from wenxin_operator.api.deployment import DeploymentSpec
from wenxin_operator.api.fields import seconds
from wenxin_operator.api.pod import Compute
from wenxin_operator.names import (
    ANNOTATION_DIGEST,
    ANNOTATION_FLAGS,
    ANNOTATION_NO_ROOM,
    ANNOTATION_ROOM,
    COMPONENT_RUNTIME,
    DEPLOYMENT,
    LABEL_REVISION,
    Raw,
    child_labels,
    content_hash,
    pod_selector,
)
from wenxin_operator.plan import answer_cache
from wenxin_operator.plan.flags import GRPC_PORT, PORT
from wenxin_operator.plan.manifest import (
    POD_SECURITY,
    TMP_MOUNT,
    TMP_VOLUME,
    OperatorSettings,
    Owner,
    container,
    model_mount,
    model_volume,
    pull_secrets,
)
from wenxin_operator.rollout import Course
from wenxin_operator.target import Target

GPU = "nvidia.com/gpu"
GPU_PRODUCT = "nvidia.com/gpu.product"
LONGEST_LOAD = 3600  # seconds; some hundred gigabytes from a slow disk, with an image pull before it
SPARE_GRACE = 15  # seconds between the end of the drain and the kill
MIB = 2**20
GIB = 2**30
_BYTES_PER_WEIGHT = {"auto": 4, "float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}


@dataclass(frozen=True, slots=True)
class Membership:
    """How a pod learns its place in a group of pods that make one replica.

    Attributes:
        env: Environment that `node_rank` and `master` refer to.
        node_rank: Its number in the group.
        master: Host name of the group's first pod.
        label: The pods' label whose value is the group.
    """

    env: tuple[Raw, ...]
    node_rank: str
    master: str
    label: str

    @property
    def args(self) -> tuple[str, str]:
        """What the runtime is told, besides the flags that are the same for all pods."""
        return f"--node-rank={self.node_rank}", f"--master-addr={self.master}"


def deployment(owner: Owner, spec: DeploymentSpec, template: Raw, course: Course) -> Raw:
    """The Deployment.

    Args:
        owner: The WenxinDeployment.
        spec: Its spec.
        template: The pods.
        course: How they take the place of others.
    """
    return owner.child(
        DEPLOYMENT,
        owner.key.name,
        COMPONENT_RUNTIME,
        annotations=remembered(course),
        spec={
            "replicas": spec.replicas,
            "selector": {"matchLabels": pod_selector(owner.key.name)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": course.pace.rolling_update()},
            "progressDeadlineSeconds": LONGEST_LOAD,
            "revisionHistoryLimit": 2,
            "template": template,
        },
    )


def revision_of(template: Raw) -> str:
    """The revision label of the pods that a template makes."""
    return str(template["metadata"]["labels"][LABEL_REVISION])


def gpus_per_pod(spec: DeploymentSpec) -> int:
    """GPUs that one pod holds."""
    return gpus_per_replica(spec) // spec.parallelism.nodes


def gpus_per_replica(spec: DeploymentSpec) -> int:
    """GPUs of all pods of one replica."""
    return 0 if spec.accelerator.resource == "none" else spec.parallelism.ranks


def remembered(course: Course) -> dict[str, str]:
    """What the objects that make the newest pods keep in mind of a rollout, until it is done."""
    return {ANNOTATION_NO_ROOM: course.no_room} if course.no_room else {}


def pod_template(
    owner: Owner, target: Target, flags: str, settings: OperatorSettings, membership: Membership | None = None
) -> Raw:
    """The pods, labelled with a hash of all that is said here, so that old and new ones can be told apart.

    Args:
        owner: The WenxinDeployment.
        target: What the pods follow.
        flags: Name of the ConfigMap with their flags.
        settings: The operator's.
        membership: For pods that make a replica together.
    """
    pod = target.spec.pod
    labels = {**pod.labels, **child_labels(owner.key, COMPONENT_RUNTIME)}
    annotations = {**pod.annotations, ANNOTATION_DIGEST: target.model.digest, ANNOTATION_FLAGS: flags}
    placement = _placement(owner.key.name, target.spec, membership)
    annotations[ANNOTATION_ROOM] = rollout.written(resources(target), placement, target.spec.parallelism.nodes)
    spec = _pod_spec(owner.key.name, target, flags, settings, membership) | placement
    labels[LABEL_REVISION] = content_hash([labels, annotations, spec])
    return {"metadata": {"labels": labels, "annotations": annotations}, "spec": spec}


def _pod_spec(name: str, target: Target, flags: str, settings: OperatorSettings, membership: Membership | None) -> Raw:
    spec, where = target.spec, target.model.where
    shared_memory = {"medium": "Memory", "sizeLimit": f"{max(1, gpus_per_pod(spec))}Gi"}
    secrets = pull_secrets(settings, [_dump(secret) for secret in spec.pod.image_pull_secrets])
    return {
        "serviceAccountName": name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        "terminationGracePeriodSeconds": grace_period(spec),
        "containers": [_runtime(target, settings, membership)],
        "volumes": [
            model_volume(where),
            {"name": "flags", "configMap": {"name": flags}},
            TMP_VOLUME,
            {"name": "shm", "emptyDir": shared_memory},
            *answer_cache.volumes(name, spec),
        ],
        **({"imagePullSecrets": secrets} if secrets else {}),
    }


def grace_period(spec: DeploymentSpec) -> int:
    """Seconds from SIGTERM to SIGKILL: the runtime's own delay and drain, and some to spare."""
    return math.ceil(seconds(spec.drain.delay) + seconds(spec.drain.timeout)) + SPARE_GRACE


def _runtime(target: Target, settings: OperatorSettings, membership: Membership | None) -> Raw:
    spec, where = target.spec, target.model.where
    return container(
        "runtime",
        spec.image or settings.runtime_image,
        settings,
        (*(membership.env if membership else ()), *answer_cache.environment(spec)),
        args=["serve", where.model_dir, "@/etc/wenxin/flags", *(membership.args if membership else ())],
        ports=_ports(spec),
        resources=resources(target),
        **_probes(),
        volumeMounts=[
            model_mount(where),
            {"name": "flags", "mountPath": "/etc/wenxin", "readOnly": True},
            TMP_MOUNT,
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - an emptyDir of the pod's own
            *answer_cache.mounts(spec),
        ],
    )


def _ports(spec: DeploymentSpec) -> list[Raw]:
    grpc = [{"name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP"}] if spec.grpc else []
    return [{"name": "http", "containerPort": PORT, "protocol": "TCP"}, *grpc]


def _probes() -> Raw:
    """/health answers while the weights load, so the length of a load is nobody's concern but readiness'."""
    health = {"httpGet": {"path": "/health", "port": "http"}}
    ready = {"httpGet": {"path": "/health/ready", "port": "http"}}
    return {
        # Five minutes for an import of torch from a cold disk.
        "startupProbe": health | {"periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 150},
        # A minute: a long step of a busy CPU is no reason to kill.
        "livenessProbe": health | {"periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "readinessProbe": ready | {"periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 3},
    }


def resources(target: Target) -> Raw:
    """CPU, memory and GPUs. What the spec says of CPU or of memory replaces all that we would say of it."""
    spec = target.spec
    given = spec.pod.resources
    result: dict[str, dict[str, Any]] = {"requests": {}, "limits": {}}
    for name, defaults in _default_resources(target).items():
        chosen = {"requests": _amount(given.requests, name), "limits": _amount(given.limits, name)}
        for side, amount in (chosen if any(chosen.values()) else defaults).items():
            if amount:
                result[side][name] = amount
    if gpus_per_pod(spec):
        result["limits"][GPU] = str(gpus_per_pod(spec))
    return {side: amounts for side, amounts in result.items() if amounts}


def _amount(compute: Compute, name: str) -> str | None:
    value: str | None = getattr(compute, name)
    return value


def _default_resources(target: Target) -> dict[str, dict[str, str]]:
    """What suits the weights.

    With a GPU, the host's memory only passes them on. On a CPU it holds them (twice while their type is converted), up
    to 2 GiB of KV cache, and Python with torch. Each data-parallel group has weights and a cache of its own; the pods
    of a replica share them evenly.
    """
    if gpus_per_pod(target.spec):
        return {"cpu": {"requests": "2"}, "memory": {"requests": "8Gi"}}
    facts = target.model.facts
    kept_as = target.spec.quantization if target.spec.quantization != "none" else target.spec.dtype
    copies = target.spec.parallelism.data / target.spec.parallelism.nodes
    weights = copies * max(facts.parameters * _BYTES_PER_WEIGHT.get(kept_as, 4), facts.bytes)
    spare = max(1, copies) * GIB
    memory = {"requests": _mebibytes(weights + spare), "limits": _mebibytes(2 * weights + 4 * spare)}
    return {"cpu": {"requests": "500m"}, "memory": memory}


def _mebibytes(size: float) -> str:
    return f"{math.ceil(size / MIB)}Mi"


def _placement(name: str, spec: DeploymentSpec, membership: Membership | None) -> Raw:
    """Where the pods may run. Fields that would say nothing are left out."""
    pod = spec.pod
    tolerations = [_dump(toleration) for toleration in pod.tolerations]
    if gpus_per_pod(spec):
        tolerations.append({"key": GPU, "operator": "Exists", "effect": "NoSchedule"})
    affinity = _with_products(pod.affinity or {}, list(spec.accelerator.products))
    optional = {
        "affinity": affinity,
        "nodeSelector": pod.node_selector,
        "tolerations": tolerations,
        "priorityClassName": pod.priority_class_name,
        "runtimeClassName": pod.runtime_class_name,
    }
    return _spread(name, spec, membership) | {field: value for field, value in optional.items() if value}


def _spread(name: str, spec: DeploymentSpec, membership: Membership | None) -> Raw:
    """Replicas go to several nodes. The pods of one replica do where it is asked for: they talk to each other."""
    own = {"labelSelector": {"matchLabels": pod_selector(name)}}
    asked = [_dump(constraint) | own for constraint in spec.pod.topology_spread_constraints]
    if membership:
        asked = [constraint | {"matchLabelKeys": [membership.label]} for constraint in asked]
        return {"topologySpreadConstraints": asked} if asked else {}
    default = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"} | own
    return {"topologySpreadConstraints": asked or [default]}


def _with_products(affinity: Raw, products: list[str]) -> Raw:
    """Terms are alternatives, so the products are asked for in each of them."""
    if not products:
        return affinity
    ours = {"key": GPU_PRODUCT, "operator": "In", "values": products}
    node = affinity.get("nodeAffinity", {})
    required = node.get("requiredDuringSchedulingIgnoredDuringExecution", {})
    terms = required.get("nodeSelectorTerms") or [{}]
    asked = [{**term, "matchExpressions": [*term.get("matchExpressions", ()), ours]} for term in terms]
    both = {"requiredDuringSchedulingIgnoredDuringExecution": {**required, "nodeSelectorTerms": asked}}
    return {**affinity, "nodeAffinity": {**node, **both}}


def _dump(part: Any) -> Raw:
    dumped: Raw = part.model_dump(mode="json", by_alias=True, exclude_none=True)
    return dumped
