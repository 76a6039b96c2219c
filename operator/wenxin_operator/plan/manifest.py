"""What all children have in common: names, labels, owners; and what all our containers have: no privileges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from wenxin_operator.api.fields import ClaimPath
from wenxin_operator.names import NEVER_READ, RESOURCES, Key, Raw, child_labels


class OperatorSettings(Protocol):
    """The part of the operator's settings that plans depend on."""

    @property
    def runtime_image(self) -> str:
        """Image of the runtime where a spec names none."""
        ...

    @property
    def redis_image(self) -> str:
        """Image of a managed Redis."""
        ...

    @property
    def image_pull_policy(self) -> str:
        """Pull policy of model pods and inspect Jobs."""
        ...

    @property
    def image_pull_secrets(self) -> Sequence[str]:
        """Names of Secrets for the registry of these images, in the namespace of each pod."""
        ...

    @property
    def lease_namespace(self) -> str:
        """Where the operator itself runs; its pods may call the models'."""
        ...

    @property
    def metrics_provider(self) -> str:
        """Who serves autoscalers the metrics."""
        ...

    @property
    def prometheus_address(self) -> str:
        """Where KEDA finds Prometheus."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What should exist.

    Attributes:
        objects: Manifests in the order in which they are applied: each after what it needs.
        keep: Kinds and names of children that stay as they are, though they are not among `objects`.
        prune: Whether other children go. False while it is not known what should exist.
        retry_at: When time alone calls for another pass.
        secrets: Made before anything else, where there is none of that name; `PASSWORD` in them is drawn then.
        ask: Names of pods that are asked what they say at /load, before the plan is made again and carried out.
        costs: Deletion costs of pods, by name, to be written before anything else.
    """

    objects: tuple[Raw, ...] = ()
    keep: frozenset[tuple[str, str]] = frozenset()
    prune: bool = True
    retry_at: datetime | None = None
    secrets: tuple[Raw, ...] = ()
    ask: frozenset[str] = frozenset()
    costs: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Owner:
    """The resource whose children are planned."""

    key: Key
    uid: str

    @classmethod
    def of(cls, resource: Raw) -> "Owner":
        """Read it off the resource."""
        metadata = resource["metadata"]
        return cls(Key(resource["kind"], metadata["namespace"], metadata["name"]), metadata["uid"])

    def child(
        self,
        kind: str,
        name: str,
        component: str,
        *,
        labels: dict[str, str] | None = None,
        annotations: dict[str, str] | None = None,
        **body: Any,
    ) -> Raw:
        """A manifest that goes when the owner goes.

        Args:
            kind: Its kind.
            name: Its name.
            component: What part of the owner it is, as its label says.
            labels: More labels.
            annotations: Its annotations.
            body: spec, data and so on.
        """
        owner_kind = RESOURCES[self.key.kind]
        reference = {
            "apiVersion": owner_kind.api_version,
            "kind": self.key.kind,
            "name": self.key.name,
            "uid": self.uid,
            "controller": True,
            # True would let a child's own finalizer hold up a foreground deletion, and needs a right on finalizers.
            "blockOwnerDeletion": False,
        }
        metadata = {
            "name": name,
            "namespace": self.key.namespace,
            "labels": child_labels(self.key, component) | (labels or {}),
            "ownerReferences": [reference],
            **({"annotations": annotations} if annotations else {}),
        }
        resource = RESOURCES.get(kind) or NEVER_READ[kind]
        return {"apiVersion": resource.api_version, "kind": kind, "metadata": metadata, **body}


POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""Pod Security Standard "restricted". No fsGroup: it would make the kubelet chown every file of a model's claim."""

CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def container(name: str, image: str, settings: OperatorSettings, env: Sequence[Raw] = (), **body: Any) -> Raw:
    """A container without privileges that writes to /tmp only and leaves word of why it ended."""
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": settings.image_pull_policy,
        # /tmp is the one place to write: a home for Triton's and torch's caches too.
        "env": [{"name": "HOME", "value": "/tmp"}, *env],  # noqa: S108 - an emptyDir of the pod's own
        "securityContext": CONTAINER_SECURITY,
        # Without a message of its own, the end of the log: an import error has no chance to write one.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **body,
    }


def pull_secrets(settings: OperatorSettings, named: Sequence[Raw] = ()) -> list[Raw]:
    """What a pod's `imagePullSecrets` are: those that its spec names, then the operator's, each once."""
    ours = [{"name": name} for name in settings.image_pull_secrets]
    return [*named, *(secret for secret in ours if secret not in named)]


def origin_of_image(settings: OperatorSettings) -> tuple[str, ...]:
    """What a Job's name says of its image: nobody can change a Job, so one that cannot pull is replaced."""
    return (settings.runtime_image, *settings.image_pull_secrets)


def model_volume(where: ClaimPath) -> Raw:
    """The claim with the weights."""
    return {"name": "model", "persistentVolumeClaim": {"claimName": where.claim}}


def model_mount(where: ClaimPath) -> Raw:
    """Where the container sees it. Read-only here and not at the volume, which some drivers then refuse to share."""
    return {"name": "model", "mountPath": where.mount_path, "readOnly": True}


TMP_VOLUME = {"name": "tmp", "emptyDir": {"sizeLimit": "2Gi"}}
TMP_MOUNT = {"name": "tmp", "mountPath": "/tmp"}  # noqa: S108 - an emptyDir of the pod's own
