"""WenxinDeployment: one OpenAI-compatible endpoint with its replicas."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, WithJsonSchema, model_validator

from wenxin_operator.api.answer_cache import AnswerCache
from wenxin_operator.api.autoscaling import Autoscaling
from wenxin_operator.api.fields import DurationUpTo, Endpoint, Part, require, rule, rules
from wenxin_operator.api.pod import PodOverrides
from wenxin_operator.api.rollout import Rollout
from wenxin_operator.api.status import Condition
from wenxin_operator.api.weights import WEIGHTS_LAWS, Weights, alone, judge, one_of, schema_of

Name = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]

_POWER = "must be 1, 2, 4, 8, 16, 32 or 64: no other number cuts these models evenly"
_NODES = "parallelism.tensor times parallelism.data is the ranks of a replica: parallelism.nodes must divide them"
_REDUNDANT = "parallelism.redundantExperts needs parallelism.expert: only whole experts can have a replica"
_PRODUCTS = "accelerator.products chooses among GPUs; with accelerator.resource none there are none"


_SIZES = [1, 2, 4, 8, 16, 32, 64]


_CHOICE_LAWS = (one_of("ref", "source", "preset"), alone("ref"), *WEIGHTS_LAWS)


class ModelChoice(Weights):
    """Which weights to serve: those of a WenxinModel, or a source or preset with all that belongs to it.

    The latter makes a WenxinModel of this deployment's own, with its name, that goes when it goes.
    """

    model_config = ConfigDict(json_schema_extra=schema_of(_CHOICE_LAWS))

    ref: Name | None = None
    """Name of a WenxinModel in the same namespace. Several deployments may share it."""

    @model_validator(mode="after")
    def _laws(self) -> Self:
        judge(self, _CHOICE_LAWS)
        return self

    @property
    def same_weights(self) -> tuple[str | None, str | None]:
        """Equal choices are equal weights, however they come."""
        return self.ref, None if self.ref else self.origin


PowerOfTwo = Annotated[
    int,
    require(lambda value: value in _SIZES, _POWER),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 64, **rule(f"self in {_SIZES}", _POWER)}),
]


class Parallelism(Part):
    """How one replica is spread over GPUs and nodes. It has tensor times data ranks, one for each GPU."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            # The API server judges the default {} too, before it fills it in.
            ("!has(self.nodes) || self.tensor * self.data % self.nodes == 0", _NODES),
            ("!has(self.expert) || self.redundantExperts == 0 || self.expert", _REDUNDANT),
        )
    )

    tensor: PowerOfTwo = 1
    """GPUs that share each layer's weights. A WenxinModel's status.facts.tensorParallelSizes says which values its
    model takes. Without GPUs, as many processes share them."""
    data: PowerOfTwo = 1
    """Groups of `tensor` GPUs, each with attention weights and a KV cache of its own and a part of the requests; one
    scheduler serves them all. Worth its memory for a mixture of experts, whose experts all groups share where `expert`
    is true."""
    expert: bool = False
    """Whether whole experts are spread over all of a replica's GPUs, rather than a part of each held by all. For a
    mixture of experts only."""
    redundant_experts: int = Field(default=0, ge=0, le=1024)
    """Places for second copies of the experts that are asked most, over all GPUs of a replica. The model's experts and
    these together must be a multiple of the GPUs. Needs `expert`."""
    nodes: int = Field(default=1, ge=1, le=16)
    """Pods that make one replica, each with its equal part of the GPUs. More than one is a group that starts, serves
    and goes together; see docs/multi-node.md."""

    @property
    def ranks(self) -> int:
        """GPUs of a replica, or processes where there are no GPUs."""
        return self.tensor * self.data

    @model_validator(mode="after")
    def _nodes_share_the_ranks_evenly(self) -> Self:
        if self.ranks % self.nodes:
            raise ValueError(_NODES)
        return self

    @model_validator(mode="after")
    def _only_whole_experts_have_replicas(self) -> Self:
        if self.redundant_experts and not self.expert:
            raise ValueError(_REDUNDANT)
        return self


class Accelerator(Part):
    """What a replica computes on."""

    model_config = ConfigDict(
        json_schema_extra=rule("self.resource != 'none' || !has(self.products) || size(self.products) == 0", _PRODUCTS)
    )

    resource: Literal["nvidia.com/gpu", "none"] = "nvidia.com/gpu"
    """Resource that a pod requests, as the node's device plugin names it; `none` computes on the CPU."""
    products: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=63)], ...],
        Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "set"}),
        require(lambda value: len(set(value)) == len(value), "name each product once"),
    ] = ()
    """Only nodes whose label nvidia.com/gpu.product (set by GPU feature discovery) has one of these values, such as
    NVIDIA-A100-SXM4-80GB. Empty takes any GPU."""

    @model_validator(mode="after")
    def _products_need_a_gpu(self) -> Self:
        if self.resource == "none" and self.products:
            raise ValueError(_PRODUCTS)
        return self


class Engine(Part):
    """How a replica batches and caches."""

    max_num_seqs: int = Field(default=32, ge=1, le=4096)
    """Requests that a replica computes at the same time."""
    queue_size: int = Field(default=100, ge=0, le=100_000)
    """Requests that may wait in a replica for a place; one more is answered 503 with Retry-After."""
    max_batched_tokens: int | None = Field(default=None, ge=16, le=1_048_576)
    """Most tokens that one step computes. Unset, the runtime decides: 8192 on a GPU, 512 on a CPU."""
    prefix_caching: bool = True
    """Whether requests that begin with the same tokens share the KV cache of that beginning."""
    stall_timeout: Annotated[str, DurationUpTo("24h")] | None = None
    """How long a replica may compute without a result before it counts as hung and is restarted; 0s never restarts.
    Unset, the runtime decides: 5m."""


class Drain(Part):
    """How a replica goes. Its pod's grace period is delay and timeout and 15 seconds more."""

    delay: Annotated[str, DurationUpTo("5m")] = "5s"
    """How long a replica that was told to stop still serves new requests, while load balancers learn of it."""
    timeout: Annotated[str, DurationUpTo("24h")] = "5m"
    """How long accepted requests may take to finish afterwards; then they are cut."""


class Monitoring(Part):
    """Where a replica reports to."""

    otlp_endpoint: Endpoint | None = None
    """OTLP/HTTP collector that traces are sent to, such as http://collector.observability.svc:4318. Unset, there are
    none. The pods' NetworkPolicy is opened for this port: to the namespace that NAME.NAMESPACE.svc says, to an IP
    address, or, for any other name, to everywhere."""


class DeploymentSpec(Part):
    """What to serve, how, and on what."""

    model: ModelChoice
    """The weights."""
    served_name: str | None = Field(
        default=None, min_length=1, max_length=253, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$"
    )
    """The model name that requests use. Unset, it is the resource's name."""
    image: str | None = Field(default=None, min_length=1, max_length=512, pattern=r"^[^\s@]+(@sha256:[0-9a-f]{64})?$")
    """Runtime image. Unset, it is the one the operator was installed with, so that an upgrade of the operator rolls
    out its runtime."""
    replicas: int = Field(default=1, ge=0, le=1000)
    """Number of replicas: of pods, or of groups of pods where parallelism.nodes is more than 1. `kubectl scale` and a
    HorizontalPodAutoscaler set it through /scale. With `autoscaling`, leave it out: the autoscaler owns it."""
    autoscaling: Autoscaling | None = None
    """Makes an autoscaler that sets `replicas` by how much work waits; see docs/autoscaling.md. Unset, there is
    none."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Data type of weights and activations; auto is bfloat16 on a GPU and float32 on a CPU."""
    quantization: Literal["none", "int8"] = "none"
    """How weights are kept in memory. `int8` rounds them to 8 bits while they load, in groups with a scale: half the
    memory of bfloat16 and faster at few requests; answers are close but not the same, see docs/fidelity.md."""
    max_model_len: int | None = Field(default=None, ge=1, le=10_000_000)
    """Longest prompt and answer together, in tokens. Unset, it is what the model was made for."""
    parallelism: Parallelism = Parallelism()
    """How one replica is spread over GPUs."""
    accelerator: Accelerator = Accelerator()
    """What a replica computes on."""
    engine: Engine = Engine()
    """How a replica batches and caches."""
    rollout: Rollout = Rollout()
    """How a new version takes the place of the old one."""
    drain: Drain = Drain()
    """How a replica goes."""
    answer_cache: AnswerCache | None = None
    """Keeps answers in a Redis, so that a repeated prompt costs no GPU; see docs/answer-cache.md. Unset, there is
    none."""
    grpc: bool = False
    """Whether replicas speak the KServe v2 protocol over gRPC too, on port 8001 of the pods and the Service; see
    docs/kserve.md. Over HTTP, on port 8000, they always do."""
    monitoring: Monitoring = Monitoring()
    """Where a replica reports to. Metrics need no setting: each pod has them at /metrics."""
    pod: PodOverrides = PodOverrides()
    """What to add to the pods, merged into the operator's own template. It can not loosen their security context."""


class ServedModel(Part):
    """The weights that the pods serve or will serve."""

    name: str | None = Field(default=None, max_length=253)
    """The WenxinModel."""
    digest: str | None = Field(default=None, max_length=128)
    """Digest of all its files."""
    architecture: str | None = Field(default=None, max_length=128)
    """Its class, such as Ernie4_5ForCausalLM."""
    parameters: int | None = None
    """Number of weights."""
    active_parameters: int | None = None
    """How many of them one token of a mixture of experts is computed with. Unset for a dense model."""
    context_length: int | None = None
    """Longest sequence in tokens it was made for."""


class DeploymentStatus(Part):
    """What the operator found."""

    observed_generation: int | None = None
    """The metadata.generation that this status describes."""
    replicas: int = 0
    """Pods that exist and are not on their way out, of any revision; of a group of pods, the first stands for all."""
    ready_replicas: int = 0
    """Those of them that are ready."""
    selector: str | None = Field(default=None, max_length=512)
    """Selects the serving pods, of a group the first: what /scale tells an autoscaler."""
    gpus: int = 0
    """GPUs that the replicas hold or wait for, those of all pods of a group included."""
    endpoint: str | None = Field(default=None, max_length=512)
    """Base URL for OpenAI clients in the cluster."""
    model: ServedModel | None = None
    """The weights."""
    conditions: tuple[Condition, ...] = Field(
        default=(),
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    """What is so, one entry for each of these types.

    `Accepted`: the spec of observedGeneration is valid, suits the model, and the API server took what follows from it.
    While it is False, the last accepted spec goes on being served and repaired.

    `ModelReady`: the WenxinModel exists, and its own Ready is True. Pods are first made when it is; they stay when it
    ceases to be.

    `Progressing`: pods of the newest revision are being made, or old ones are going. False with reason RolloutComplete
    when there is nothing left to do; False with another reason when something is in the way. Its message says whether
    a new replica comes before an old one goes, and why.

    `Available`: at least one pod, of whatever revision, is ready and stands in the Service's EndpointSlice: the
    endpoint answers.

    `ScalingActive`: the autoscaler that spec.autoscaling asks for exists and sets the count; only where it is asked
    for. True with reason ScalingLimited where maxReplicas or the pace of `behavior` allows another count than is
    wanted. See docs/autoscaling.md for the reasons of a False one.

    `CacheReady`: only where spec.answerCache is set. Redis answers every serving pod, as those say that are asked with
    each pass, at the latest after the operator's resyncInterval; a managed Redis is ready. Nothing waits for it: while
    it is False, some or all answers are generated that might be repeated, and Ready may well be True.

    `Ready`: Accepted is True, and of the newest revision all replicas are ready and stand in the Service's
    EndpointSlice, and no older pod takes requests any more: what you asked for is what answers. False, with reason
    ScaledToZero, at 0 replicas."""


class WenxinDeployment(Part):
    """One OpenAI-compatible endpoint that serves ERNIE 4.5."""

    spec: DeploymentSpec
    """What you want."""
    status: DeploymentStatus | None = None
    """What there is. Written by the operator."""
