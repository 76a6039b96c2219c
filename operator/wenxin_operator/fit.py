"""How much of a GPU's memory a model takes, and what that leaves. Pure arithmetic.

What a rank holds follows from the shapes alone: the weights that tensor parallelism gives it, and the keys and values
of its heads. tests/contract holds both to what the runtime allocates. What a step takes on top is an estimate; the
runtime measures it when it starts, and sizes its KV cache by that.
"""

from dataclasses import dataclass

from wenxin_operator.api.status import ModelFacts

GIB = 2**30
UTILIZATION = 0.9
"""Share of a card that the runtime takes: the default of --gpu-memory-utilization."""
STEP_TOKENS = 8192
"""Tokens of the largest step: the default of --max-num-batched-tokens on a GPU."""

MOST_GPUS_OF_A_NODE = 16

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# CUDA's context, its libraries' workspaces, the captured decode graphs.
_OVERHEAD = GIB

CARDS = {
    "T4": 15 * GIB,
    "V100-32": 32 * GIB,
    "A100-40": 40 * GIB,
    "MI250X": 64 * GIB,  # each of its two dies is a device
    "910B": 64 * GIB,
    "A100-80": 80 * GIB,
    "A800": 80 * GIB,
    "H100": 80 * GIB,
    "H200": 140 * GIB,
}
"""Memory of the cards that ERNIE is usually served on, per device."""

_PRODUCTS = (
    ("A100", "40GB", "A100-40"),
    ("A100", "80GB", "A100-80"),
    ("A800", "", "A800"),
    ("H100", "", "H100"),
    ("H200", "", "H200"),
    ("V100", "32GB", "V100-32"),
    ("T4", "", "T4"),
)


@dataclass(frozen=True, slots=True)
class Demand:
    """How a model is to be served.

    Attributes:
        dtype: Of weights and KV cache, as in the spec; auto is bfloat16.
        quantization: As in the spec.
        context: Tokens of the longest sequence.
        concurrency: Sequences of that length at the same time.
    """

    context: int
    concurrency: int = 1
    dtype: str = "auto"
    quantization: str = "none"

    @property
    def element_bytes(self) -> int:
        """Bytes of a number that is not quantised."""
        return _BYTES.get(self.dtype, 2)


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one GPU holds, in bytes."""

    weights: int
    kv_per_token: int
    step: int

    @property
    def fixed(self) -> int:
        """All but the KV cache."""
        return self.weights + self.step + _OVERHEAD


@dataclass(frozen=True, slots=True)
class Layout:
    """A model on so many GPUs of a card.

    Attributes:
        tensor: GPUs that share every layer.
        footprint: What each of them holds.
        kv_cache: Bytes that each has for keys and values; negative where not even the weights fit.
        missing: Bytes that each lacks for what is demanded; 0 where it fits.
        concurrency: Sequences of the demanded length that its KV cache holds.
    """

    tensor: int
    footprint: Footprint
    kv_cache: int
    missing: int
    concurrency: int

    @property
    def fits(self) -> bool:
        """Whether what is demanded can be served."""
        return not self.missing


def known(facts: ModelFacts) -> bool:
    """Whether the facts tell the shapes: an inspection by an older runtime does not."""
    return bool(facts.heads and facts.kv_heads and facts.head_dim and facts.tensor_parallel_sizes)


def card_bytes(product: str) -> int | None:
    """Find the memory of a card by its nvidia.com/gpu.product label."""
    for name, size, card in _PRODUCTS:
        if name in product and size in product:
            return CARDS[card]
    return None


def footprint(facts: ModelFacts, demand: Demand, tensor: int) -> Footprint:
    """Count what each of `tensor` GPUs holds."""
    kv_heads = max(1, facts.kv_heads // tensor)
    kv_per_token = facts.layers * 2 * kv_heads * facts.head_dim * demand.element_bytes
    return Footprint(_weight_bytes(facts, demand, tensor), kv_per_token, _step_bytes(facts, demand, tensor))


def layouts(facts: ModelFacts, demand: Demand, card: int) -> list[Layout]:
    """Judge every size that cuts the model evenly on GPUs of `card` bytes, the smallest first."""
    return [layout(facts, demand, card, tensor) for tensor in facts.tensor_parallel_sizes]


def layout(facts: ModelFacts, demand: Demand, card: int, tensor: int) -> Layout:
    """Judge one size."""
    found = footprint(facts, demand, tensor)
    left = int(card * UTILIZATION) - found.fixed
    wanted = demand.concurrency * demand.context * found.kv_per_token
    concurrency = max(0, left) // (demand.context * found.kv_per_token)
    return Layout(tensor, found, left, max(0, wanted - left), concurrency)


def _weight_bytes(facts: ModelFacts, demand: Demand, tensor: int) -> int:
    element = demand.element_bytes
    linear = 1 if demand.quantization == "int8" else element
    hidden, experts = facts.hidden_size, facts.experts or 0
    expert_layers = facts.expert_layers or 0
    heads, kv_heads = facts.heads // tensor, max(1, facts.kv_heads // tensor)
    attention = hidden * facts.head_dim * (2 * heads + 2 * kv_heads)
    dense = 3 * hidden * facts.intermediate_size // tensor
    mixture = 3 * hidden * (facts.expert_size or 0) * (experts + (facts.shared_experts or 0)) // tensor
    layers = facts.layers * attention + (facts.layers - expert_layers) * dense + expert_layers * mixture
    table = facts.vocab_size * hidden // tensor
    embedding = table * _BYTES.get(facts.dtype, element)
    shared = facts.tied_head and linear == element and facts.dtype == demand.dtype.replace("auto", "bfloat16")
    routers = expert_layers * 4 * experts * (hidden + 1)
    norms = (2 * facts.layers + 1) * hidden * element
    return layers * linear + embedding + (0 if shared else table * linear) + routers + norms


def _step_bytes(facts: ModelFacts, demand: Demand, tensor: int) -> int:
    """Estimate the largest step: the widest layer's inputs and outputs for each token, and the logits of the slots."""
    per_token = 6 * facts.hidden_size + 3 * facts.intermediate_size // tensor
    if facts.experts:
        width = 2 * (facts.expert_size or 0) // tensor + facts.hidden_size
        per_token = max(per_token, 6 * facts.hidden_size + (facts.experts_per_token or 0) * width)
    return STEP_TOKENS * per_token * demand.element_bytes + 64 * facts.vocab_size * 4 * 3
