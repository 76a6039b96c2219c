"""One home for every key, kind, label, annotation and child name; nothing is spelled twice.

Decides no behaviour and imports nothing of ours.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Raw = dict[str, Any]
"""An API object as JSON says it. Never changed once built or read."""

GROUP = "serving.wenxin.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
FIELD_MANAGER = "wenxin-operator"
HELM = "helm"
"""Owns the definitions: Helm 4 applies them again with a new installation, and fails on fields that another owns."""

WENXIN_DEPLOYMENT = "WenxinDeployment"
WENXIN_MODEL = "WenxinModel"
DEPLOYMENT = "Deployment"
STATEFUL_SET = "StatefulSet"
LEADER_WORKER_SET = "LeaderWorkerSet"
POD = "Pod"
SERVICE = "Service"
SERVICE_ACCOUNT = "ServiceAccount"
CONFIG_MAP = "ConfigMap"
NETWORK_POLICY = "NetworkPolicy"
POD_DISRUPTION_BUDGET = "PodDisruptionBudget"
JOB = "Job"
ENDPOINT_SLICE = "EndpointSlice"
CONTROLLER_REVISION = "ControllerRevision"
PERSISTENT_VOLUME_CLAIM = "PersistentVolumeClaim"
SECRET = "Secret"  # noqa: S105 - a kind
HORIZONTAL_POD_AUTOSCALER = "HorizontalPodAutoscaler"
SCALED_OBJECT = "ScaledObject"

WORKLOADS = frozenset({DEPLOYMENT, STATEFUL_SET, LEADER_WORKER_SET})
"""Kinds that make serving pods."""

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY = FIELD_MANAGER
"""On everything the operator makes, pods included: the one selector of all watches of children."""
LABEL_DEPLOYMENT = f"{GROUP}/deployment"
LABEL_MODEL = f"{GROUP}/model"
LABEL_REVISION = f"{GROUP}/revision"
"""On pods: hash of the template they were made from; it tells old pods from new ones without a look at ReplicaSets."""
LABEL_GROUP = f"{GROUP}/group"
"""On a StatefulSet that is one group, and on its pods: the StatefulSet's name."""
LABEL_CLIENTS = f"{GROUP}/clients"
"""On a namespace, with value "true": its pods may call every model of the cluster that this operator serves."""
LABEL_SOURCE = f"{GROUP}/source-hash"
"""On inspect and download Jobs: which contents (origin and claim) they are about."""
LABEL_MEANS = f"{GROUP}/means-hash"
"""On download Jobs: how they fetch: mirror, proxy, credentials. With other means a new attempt is worth its while."""
LABEL_ATTEMPT = f"{GROUP}/attempt"
"""On inspect and download Jobs: 1 for the first, one more after each failure."""
ANNOTATION_APPLIED = f"{GROUP}/applied-hash"
"""On children: hash of the manifest that was applied last."""
ANNOTATION_DIGEST = f"{GROUP}/model-digest"
"""On pods: digest of the weights they serve; other weights at the same path are another revision."""

ANNOTATION_FLAGS = f"{GROUP}/flags"
"""On pods: the ConfigMap of flags that they mount; it stays while they live."""
ANNOTATION_ROOM = f"{GROUP}/room"
"""On pods: what they need to be placed, as `rollout.Room` writes it; tells whether one fits where another was."""
ANNOTATION_NO_ROOM = f"{GROUP}/no-room"
"""On what makes the pods of a revision, while it is rolled out: what there was no room for, in the cluster's words. It
is why an old replica goes before each new one comes."""
ANNOTATION_DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
"""On pods: those with the lowest go first when their number falls; 0 where there is none."""

ANNOTATION_VERSION = f"{GROUP}/version"
"""On CustomResourceDefinitions: the version of the project that wrote them."""

LABEL_APP = "app.kubernetes.io/name"
LABEL_INSTANCE = "app.kubernetes.io/instance"
LABEL_COMPONENT = "app.kubernetes.io/component"
LABEL_JOB_NAME = "batch.kubernetes.io/job-name"
LABEL_SERVICE_NAME = "kubernetes.io/service-name"
"""On EndpointSlices: whose they are."""
LABEL_POD_INDEX = "apps.kubernetes.io/pod-index"
"""On pods of a StatefulSet: their number in it."""
LABEL_WORKER_INDEX = "leaderworkerset.sigs.k8s.io/worker-index"
"""On pods of a LeaderWorkerSet: their number in the group."""
LABEL_GROUP_INDEX = "leaderworkerset.sigs.k8s.io/group-index"
"""On pods of a LeaderWorkerSet: the group's number."""
METRIC_QUEUE_DEPTH = "wenxin_queue_depth"
METRIC_RUNNING = "wenxin_requests_running"
"""What autoscalers go by, as the runtime calls it and as every provider of metrics does."""

APP = "wenxin"
COMPONENT_RUNTIME = "runtime"
COMPONENT_INSPECT = "inspect"
COMPONENT_REDIS = "redis"
COMPONENT_DOWNLOAD = "download"
COMPONENT_WEIGHTS = "weights"


class Key(NamedTuple):
    """Names one resource to reconcile; `kind` is WenxinDeployment or WenxinModel."""

    kind: str
    namespace: str
    name: str


OWNER_LABEL: Mapping[str, str] = {WENXIN_DEPLOYMENT: LABEL_DEPLOYMENT, WENXIN_MODEL: LABEL_MODEL}
"""Primary kind -> the label whose value names it on its children."""


@dataclass(frozen=True, slots=True)
class Resource:
    """How a kind is addressed on the API server.

    Attributes:
        ours: Only objects that carry our managed-by label are listed and watched; False: all of the kind.
        optional: Another project's, which a cluster may be without.
    """

    api_version: str
    plural: str
    ours: bool = True
    optional: bool = False


RESOURCES: Mapping[str, Resource] = {
    WENXIN_DEPLOYMENT: Resource(API_VERSION, "wenxindeployments", ours=False),
    WENXIN_MODEL: Resource(API_VERSION, "wenxinmodels", ours=False),
    PERSISTENT_VOLUME_CLAIM: Resource("v1", "persistentvolumeclaims", ours=False),
    POD: Resource("v1", "pods"),
    SERVICE: Resource("v1", "services"),
    SERVICE_ACCOUNT: Resource("v1", "serviceaccounts"),
    CONFIG_MAP: Resource("v1", "configmaps"),
    NETWORK_POLICY: Resource("networking.k8s.io/v1", "networkpolicies"),
    POD_DISRUPTION_BUDGET: Resource("policy/v1", "poddisruptionbudgets"),
    JOB: Resource("batch/v1", "jobs"),
    DEPLOYMENT: Resource("apps/v1", "deployments"),
    STATEFUL_SET: Resource("apps/v1", "statefulsets"),
    LEADER_WORKER_SET: Resource("leaderworkerset.x-k8s.io/v1", "leaderworkersets", optional=True),
    CONTROLLER_REVISION: Resource("apps/v1", "controllerrevisions"),
    # All of them, for another one on the same target must be seen.
    HORIZONTAL_POD_AUTOSCALER: Resource("autoscaling/v2", "horizontalpodautoscalers", ours=False),
    SCALED_OBJECT: Resource("keda.sh/v1alpha1", "scaledobjects", ours=False, optional=True),
    # The EndpointSlice controller copies the Service's labels to its slices.
    ENDPOINT_SLICE: Resource("discovery.k8s.io/v1", "endpointslices"),
}
"""Every kind that is watched, if the cluster has it. A child carries the label of one kind of owner, never of both."""


NEVER_READ: Mapping[str, Resource] = {SECRET: Resource("v1", "secrets")}
"""Kinds that are made, and neither read nor watched: there is no right to."""


def path_of(kind: str, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
    """The path of a collection, an object or its subresource."""
    resource = RESOURCES.get(kind) or NEVER_READ[kind]
    root = f"/apis/{resource.api_version}" if "/" in resource.api_version else f"/api/{resource.api_version}"
    parts = [root, *(("namespaces", namespace) if namespace else ()), resource.plural, name, subresource]
    return "/".join(part for part in parts if part)


def selector_of(kind: str) -> str:
    """The label selector of a kind's lists and watches; empty where all objects are wanted."""
    return f"{LABEL_MANAGED_BY}={MANAGED_BY}" if RESOURCES[kind].ours else ""


def content_hash(value: Any, length: int = 8) -> str:
    """Hash JSON-like content, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def flags_config_map(deployment: str, flags: str) -> str:
    """Name the ConfigMap by what it holds, so that it never needs to change."""
    return f"{deployment}-flags-{content_hash(flags)}"


def group(deployment: str, revision: str, number: int) -> str:
    """Name the StatefulSet of one group: short enough for the label that Kubernetes makes of it and of a hash.

    The revision hashes the deployment's name too, so that two long names that begin alike stay apart.
    """
    return _shortened(deployment, f"-{revision}-{number}", 52)


def leader_worker_set(deployment: str) -> str:
    """Name the LeaderWorkerSet, and so the headless Service that its controller makes: not as our own Service.

    Its controller makes a StatefulSet for the workers of each group, with the group's number behind this name.
    """
    return _shortened(deployment, f"-groups-{content_hash(deployment)}", 47)


def headless_service(deployment: str) -> str:
    """Name the Service that gives each pod of a group a host name."""
    return _shortened(deployment, f"-nodes-{content_hash(deployment)}", 63)


def revision(deployment: str, data: Any) -> str:
    """Name the ControllerRevision that keeps an accepted spec."""
    return f"{deployment}-{content_hash(data)}"


def inspect_job(model: str, inputs: Any, attempt: int) -> str:
    """Name a Job by what it reads and with which image: a DNS label, for its pods take it as host name."""
    return _shortened(model.replace(".", "-"), f"-inspect-{content_hash([model, inputs])}-{attempt}", 63)


def redis(deployment: str) -> str:
    """Name all that a managed Redis is made of; the hash, so that no other deployment is called so."""
    return _shortened(deployment, f"-redis-{content_hash(deployment)}", 52)


def redis_config_map(deployment: str, config: str) -> str:
    """Name its configuration by what it holds: another one is another pod."""
    return f"{redis(deployment)}-{content_hash(config)}"


def inspect_policy(model: str) -> str:
    """Name the NetworkPolicy of a model's inspect Jobs."""
    return f"{model}-inspect"


def download_job(model: str, inputs: Any, attempt: int) -> str:
    """Name a Job by what it fetches, by which means and with which image; as `inspect_job`."""
    return _shortened(model.replace(".", "-"), f"-download-{content_hash([model, inputs])}-{attempt}", 63)


def download_policy(model: str) -> str:
    """Name the NetworkPolicy of a model's download Jobs."""
    return f"{model}-download"


def weights_claim(model: str) -> str:
    """Name the claim that a model's download is kept on, where it is the operator's."""
    return f"{model}-weights"


def checksums_config_map(model: str, checksums: str) -> str:
    """Name the ConfigMap by what it holds, so that it never needs to change."""
    return f"{model}-checksums-{content_hash(checksums)}"


def _shortened(name: str, tail: str, longest: int) -> str:
    return name[: longest - len(tail)].rstrip("-") + tail


def child_labels(owner: Key, component: str) -> dict[str, str]:
    """What every child of `owner`, and every pod below it, is labelled with."""
    return {
        OWNER_LABEL[owner.kind]: owner.name,
        LABEL_APP: APP,
        LABEL_INSTANCE: owner.name,
        LABEL_COMPONENT: component,
        LABEL_MANAGED_BY: MANAGED_BY,
    }


def pod_selector(deployment: str) -> dict[str, str]:
    """Selects the serving pods of a deployment, of every revision, and nothing else."""
    return {LABEL_DEPLOYMENT: deployment, LABEL_COMPONENT: COMPONENT_RUNTIME}


def leader_selector(deployment: str, workload: str) -> dict[str, str]:
    """Selects the pods that answer requests: all of a Deployment, of a group the first.

    Args:
        deployment: The WenxinDeployment.
        workload: Kind of the objects that make its pods.
    """
    first = {STATEFUL_SET: {LABEL_POD_INDEX: "0"}, LEADER_WORKER_SET: {LABEL_WORKER_INDEX: "0"}}
    return pod_selector(deployment) | first.get(workload, {})


def endpoint(deployment: str, namespace: str) -> str:
    """The base URL that OpenAI clients in the cluster take."""
    return f"http://{deployment}.{namespace}.svc:8000/v1"
