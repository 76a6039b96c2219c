"""How much of a GPU's memory a model takes, and what that leaves. Pure arithmetic.

What a rank holds follows from the shapes and the layout alone: the weights that `parallel/sharding.py` of the runtime
gives it, and the keys and values of its heads. tests/contract holds both to what the runtime allocates. What a step
takes on top is an estimate; the runtime measures it when it starts, and sizes its KV cache by that.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from wenxin_operator.api.status import ModelFacts

GIB = 2**30
UTILIZATION = 0.9
"""Share of a card that the runtime takes: the default of --gpu-memory-utilization."""
STEP_TOKENS = 8192
"""Tokens of the largest step: the default of --max-num-batched-tokens on a GPU."""

MOST_GPUS_OF_A_NODE = 16
"""No machine that these cards come in has more, so no pod asks for more."""
GPUS_OF_A_NODE = 8
"""What most of them have: beyond that, several nodes are advised."""
MOST_GPUS = 64

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# CUDA's context, its libraries' workspaces, the captured decode graphs.
_OVERHEAD = GIB
_SIZES = (1, 2, 4, 8, 16, 32, 64)  # what spec.parallelism takes

CARDS = {
    "T4": 15 * GIB,
    "V100-16": 16 * GIB,
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

# Two words of a product's label, and which card it is. Labels come from the vendors' own feature discovery.
_PRODUCTS = (
    ("A100", "40GB", "A100-40"),
    ("A100", "80GB", "A100-80"),
    ("A800", "80GB", "A800"),
    ("H100", "80GB", "H100"),
    ("H100", "PCIe", "H100"),
    ("H200", "", "H200"),
    ("V100", "16GB", "V100-16"),
    ("V100", "32GB", "V100-32"),
    ("T4", "", "T4"),
    ("MI250", "", "MI250X"),
    ("910B1", "", "910B"),
    ("910B2", "", "910B"),
    ("910B3", "", "910B"),  # a 910B4 has half the memory
)


@dataclass(frozen=True, slots=True)
class Demand:
    """How a model is to be served.

    Attributes:
        context: Tokens of the longest sequence.
        concurrency: Sequences of that length at the same time.
        dtype: Of weights and KV cache, as in the spec; auto is bfloat16.
        quantization: As in the spec.
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
class Layout:
    """How the GPUs of one replica share a model, as in spec.parallelism.

    Attributes:
        tensor: GPUs of a group: they share every layer, and the keys and values of the same sequences.
        data: Groups.
        expert: Whether whole experts are spread over the GPUs of all groups, rather than a part of each held by all of
            a group.
        redundant_experts: Places for copies of the busiest experts of a layer, on all GPUs together.
        nodes: Machines that the GPUs are spread over evenly.
    """

    tensor: int = 1
    data: int = 1
    expert: bool = False
    redundant_experts: int = 0
    nodes: int = 1

    @property
    def gpus(self) -> int:
        """GPUs of a replica."""
        return self.tensor * self.data


@dataclass(frozen=True, slots=True)
class Settled:
    """What of a layout is given; None is to be found.

    Attributes:
        gpus_of_a_node: A layout takes as many nodes as that makes necessary.
    """

    tensor: int | None = None
    data: int | None = None
    expert: bool | None = None
    redundant_experts: int = 0
    nodes: int | None = None
    gpus_of_a_node: int = GPUS_OF_A_NODE


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
class Verdict:
    """What becomes of a layout on GPUs of some card.

    Attributes:
        layout: The layout.
        footprint: What each GPU holds.
        kv_cache: Bytes that each has for keys and values; negative where not even the weights fit.
        missing: Bytes that each lacks for what is demanded; 0 where it fits.
        concurrency: Sequences of the demanded length that the KV caches of all groups hold.
    """

    layout: Layout
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
    """Find the memory of a card by the label that NVIDIA's, AMD's or Ascend's feature discovery gives its nodes."""
    for name, size, card in _PRODUCTS:
        if name in product and size in product:
            return CARDS[card]
    return None


def footprint(facts: ModelFacts, demand: Demand, layout: Layout) -> Footprint:
    """Count what each GPU of a layout holds."""
    kv_heads = max(1, facts.kv_heads // layout.tensor)
    kv_per_token = facts.layers * 2 * kv_heads * facts.head_dim * demand.element_bytes
    return Footprint(_weight_bytes(facts, demand, layout), kv_per_token, _step_bytes(facts, demand, layout))


def judge(facts: ModelFacts, demand: Demand, card: int, layout: Layout) -> Verdict:
    """Judge one layout on GPUs of `card` bytes. A group takes its share of the sequences, and holds no one else's."""
    found = footprint(facts, demand, layout)
    left = int(card * UTILIZATION) - found.fixed
    sequence = demand.context * found.kv_per_token
    wanted = -(-demand.concurrency // layout.data) * sequence
    return Verdict(layout, found, left, max(0, wanted - left), layout.data * (max(0, left) // sequence))


def judged(facts: ModelFacts, demand: Demand, card: int, settled: Settled) -> list[Verdict]:
    """Judge every layout that agrees with what is settled and cuts the model evenly, the smallest first."""
    return [judge(facts, demand, card, layout) for layout in layouts(facts, settled)]


def layouts(facts: ModelFacts, settled: Settled) -> list[Layout]:
    """List the layouts that cut the model evenly: the fewest GPUs first, and of as many the fewest groups.

    With several groups, experts are spread over all of them: held by each, they would take memory for nothing.
    """
    tensors = (settled.tensor,) if settled.tensor else _SIZES
    groups = (settled.data,) if settled.data else _SIZES
    found = [
        layout
        for tensor, data in itertools.product(tensors, groups)
        if tensor * data <= MOST_GPUS
        for layout in _on_nodes(facts, settled, tensor, data)
        if divides(facts, layout)
    ]
    return sorted(found, key=lambda layout: (layout.gpus, layout.data))


def divides(facts: ModelFacts, layout: Layout) -> bool:
    """Whether every part of the model can be shared evenly; what `check_layout` of the runtime asks for."""
    experts, gpus = facts.experts or 0, layout.gpus
    if layout.tensor not in facts.tensor_parallel_sizes or facts.vocab_size % gpus or gpus % layout.nodes:
        return False
    return not layout.expert or bool(experts and not experts % gpus and not layout.redundant_experts % gpus)


def _on_nodes(facts: ModelFacts, settled: Settled, tensor: int, data: int) -> Iterator[Layout]:
    """Give the layout on as few nodes as will do, or on those that are asked for; none where they are too few."""
    spread = data > 1 and bool(facts.experts) if settled.expert is None else settled.expert
    fewest = -(-tensor * data // settled.gpus_of_a_node)
    for nodes in (settled.nodes,) if settled.nodes else range(fewest, tensor * data + 1):
        if nodes >= fewest and tensor * data % nodes == 0:
            yield Layout(tensor, data, spread, settled.redundant_experts if spread else 0, nodes)
            return


def _weight_bytes(facts: ModelFacts, demand: Demand, layout: Layout) -> int:
    hidden, tensor, expert_layers = facts.hidden_size, layout.tensor, facts.expert_layers or 0
    dense = _mlp_bytes(demand, hidden, facts.intermediate_size // tensor)
    mixture = _mixture_bytes(facts, demand, layout) if expert_layers else 0
    layers = facts.layers * _attention_bytes(facts, demand, tensor)
    layers += (facts.layers - expert_layers) * dense + expert_layers * mixture
    embedding = facts.vocab_size // tensor * hidden * _BYTES.get(facts.dtype, demand.element_bytes)
    # The head is cut over all groups, the embedding within each: only one group's are cut alike.
    stored_alike = facts.dtype == demand.dtype.replace("auto", "bfloat16") and demand.quantization == "none"
    shared = facts.tied_head and stored_alike and layout.data == 1
    head = 0 if shared else _matrix_bytes(demand, facts.vocab_size // layout.gpus, hidden)
    norms = (2 * facts.layers + 1) * hidden * demand.element_bytes
    return layers + embedding + head + norms


def _attention_bytes(facts: ModelFacts, demand: Demand, tensor: int) -> int:
    heads, kv_heads = facts.heads // tensor, max(1, facts.kv_heads // tensor)
    qkv = _matrix_bytes(demand, (heads + 2 * kv_heads) * facts.head_dim, facts.hidden_size)
    return qkv + _matrix_bytes(demand, facts.hidden_size, heads * facts.head_dim)


def _mixture_bytes(facts: ModelFacts, demand: Demand, layout: Layout) -> int:
    """Count what a GPU holds of the experts of one layer and of what chooses among them, which is float32 and whole."""
    hidden, width, experts = facts.hidden_size, facts.expert_size or 0, facts.experts or 0
    router = 4 * experts * (hidden + 1)
    shared = _mlp_bytes(demand, hidden, width * facts.shared_experts // layout.tensor) if facts.shared_experts else 0
    if layout.expert:
        routed = (experts + layout.redundant_experts) // layout.gpus * _mlp_bytes(demand, hidden, width)
    else:
        routed = experts * _mlp_bytes(demand, hidden, width // layout.tensor)
    return router + shared + routed


def _mlp_bytes(demand: Demand, hidden: int, width: int) -> int:
    return _matrix_bytes(demand, 2 * width, hidden) + _matrix_bytes(demand, hidden, width)


def _matrix_bytes(demand: Demand, out: int, inputs: int) -> int:
    """Count a linear layer's weight [out, inputs]; in int8, each output has a float32 scale."""
    return out * (inputs + 4) if demand.quantization == "int8" else out * inputs * demand.element_bytes


def _step_bytes(facts: ModelFacts, demand: Demand, layout: Layout) -> int:
    """Estimate the largest step: the widest layer's inputs and outputs for each token, and the logits of the slots."""
    per_token = 6 * facts.hidden_size + 3 * facts.intermediate_size // layout.tensor
    if facts.experts:
        width = 2 * (facts.expert_size or 0) // (1 if layout.expert else layout.tensor) + facts.hidden_size
        per_token = max(per_token, 6 * facts.hidden_size + (facts.experts_per_token or 0) * width)
    return STEP_TOKENS * per_token * demand.element_bytes + 64 * facts.vocab_size * 4 * 3
