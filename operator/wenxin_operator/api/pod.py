"""What a WenxinDeployment may add to its pods: typed, so that a typing error is refused and not dropped."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from wenxin_operator.api.fields import Annotations, Labels, NodeLabels, Part, Preserved, Quantity, require, rule


class Compute(Part):
    """An amount of CPU and memory."""

    cpu: Quantity | None = None
    """Cores, such as 2 or 500m."""
    memory: Quantity | None = None
    """Bytes, such as 16Gi."""


class Resources(Part):
    """CPU and memory of a pod. GPUs follow from spec.accelerator and spec.parallelism."""

    requests: Compute = Compute()
    """What the scheduler sets aside. Where neither a request nor a limit is given, the operator fills in what the
    model's size calls for."""
    limits: Compute = Compute()
    """What the pod may not exceed."""


class Toleration(Part):
    """A taint that does not keep the pods off a node."""

    key: str | None = Field(default=None, max_length=316)
    """The taint's key; empty with operator Exists tolerates all."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How `value` is compared."""
    value: str | None = Field(default=None, max_length=63)
    """The taint's value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Which effect is tolerated; unset, all of them."""
    toleration_seconds: int | None = None
    """For NoExecute: how long a pod stays."""


_MIN_DOMAINS = "minDomains counts with whenUnsatisfiable DoNotSchedule only"


class TopologySpread(Part):
    """How the deployment's own pods are spread; the operator fills in their label selector."""

    model_config = ConfigDict(
        json_schema_extra=rule("!has(self.minDomains) || self.whenUnsatisfiable == 'DoNotSchedule'", _MIN_DOMAINS)
    )

    topology_key: str = Field(min_length=1, max_length=316)
    """Node label whose values are the domains, such as topology.kubernetes.io/zone."""
    max_skew: int = Field(default=1, ge=1)
    """Largest difference in pods between two domains."""
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = "ScheduleAnyway"
    """What the scheduler does when it can not keep to it."""
    min_domains: int | None = Field(default=None, ge=1)
    """Fewest domains to count on, with DoNotSchedule."""
    node_affinity_policy: Literal["Honor", "Ignore"] | None = None
    """Whether nodes that the pods can not choose are counted."""
    node_taints_policy: Literal["Honor", "Ignore"] | None = None
    """Whether nodes with taints that the pods do not tolerate are counted."""

    @model_validator(mode="after")
    def _domains_are_counted(self) -> Self:
        if self.min_domains is not None and self.when_unsatisfiable != "DoNotSchedule":
            raise ValueError(_MIN_DOMAINS)
        return self


class SecretName(Part):
    """A Secret in the same namespace."""

    name: str = Field(min_length=1, max_length=253)
    """Its name."""


_TERMS = "nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms must be a list of terms"


def _has_term_lists(affinity: dict[str, Any]) -> bool:
    """Whether accelerator.products can be merged in; all else is the API server's to judge."""
    required: Any = affinity
    for field in ("nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"):
        required = required.get(field, {})
        if not isinstance(required, dict):
            return False
    terms = required.get("nodeSelectorTerms", [])
    lists = isinstance(terms, list) and all(isinstance(term, dict) for term in terms)
    return lists and all(isinstance(term.get("matchExpressions", []), list) for term in terms)


class PodOverrides(Part):
    """What to add to the pods."""

    labels: Labels = Field(default={})
    """More labels."""
    annotations: Annotations = Field(default={})
    """More annotations."""
    node_selector: NodeLabels = Field(default={})
    """Only nodes with all these labels."""
    tolerations: tuple[Toleration, ...] = Field(default=(), max_length=32)
    """More tolerations. That of nvidia.com/gpu is there already when a GPU is requested."""
    affinity: Annotated[Preserved, require(_has_term_lists, _TERMS)] | None = None
    """Kubernetes' own pod affinity. Its nodeAffinity and accelerator.products both apply."""
    topology_spread_constraints: tuple[TopologySpread, ...] = Field(default=(), max_length=8)
    """How the pods are spread. Empty spreads them over nodes as well as it goes."""
    resources: Resources = Resources()
    """CPU and memory."""
    priority_class_name: str | None = Field(default=None, min_length=1, max_length=253)
    """PriorityClass of the pods."""
    runtime_class_name: str | None = Field(default=None, min_length=1, max_length=253)
    """RuntimeClass of the pods, such as nvidia where that is not the node's default."""
    image_pull_secrets: tuple[SecretName, ...] = Field(default=(), max_length=16)
    """Secrets that the image is pulled with."""
