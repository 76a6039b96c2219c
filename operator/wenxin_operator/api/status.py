"""What statuses are made of: conditions, and the facts that an inspection found."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from wenxin_operator.api.fields import Part

Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]


class Condition(Part):
    """One thing that is so, is not so, or is not known yet."""

    type: str = Field(max_length=64)
    """Which of the conditions listed at `conditions`."""
    status: Literal["True", "False", "Unknown"]
    """Whether it is so."""
    observed_generation: int
    """The metadata.generation that was looked at: older than the resource's own means that it is out of date."""
    last_transition_time: Time
    """When `status` last changed."""
    reason: str = Field(max_length=128)
    """Why, as one CamelCase word for programs."""
    message: str = Field(max_length=4096)
    """Why, and what to do about it, for people."""


class ModelFacts(Part):
    """What a checkpoint's own files say."""

    # A newer runtime may tell more than this operator knows.
    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        validate_by_name=True,
        use_attribute_docstrings=True,
    )

    architecture: str = Field(default="", max_length=128)
    """The class that config.json names, such as Ernie4_5ForCausalLM."""
    parameters: int = 0
    """Number of weights."""
    bytes: int = 0
    """Size of all weights as stored."""
    layers: int = 0
    """Number of decoder layers."""
    hidden_size: int = 0
    """Width of the residual stream."""
    context_length: int = 0
    """Longest sequence in tokens the model was made for."""
    vocab_size: int = 0
    """Number of tokens in the vocabulary."""
    dtype: str = Field(default="", max_length=32)
    """Data type of the stored weights."""
    heads: int = 0
    """Query heads of a layer."""
    kv_heads: int = 0
    """Key-value heads of a layer."""
    head_dim: int = 0
    """Width of a head."""
    intermediate_size: int = 0
    """Width of a dense layer's feed-forward network."""
    tensor_parallel_sizes: tuple[int, ...] = Field(default=(), max_length=256)
    """The values of spec.parallelism.tensor that cut every layer evenly."""
    tied_head: bool = False
    """Whether embedding and head are one tensor."""
    experts: int | None = None
    """Experts of a layer that has them. Unset for a dense model, as is what follows."""
    experts_per_token: int | None = None
    """How many of them each token goes through."""
    expert_layers: int | None = None
    """Number of layers that have experts."""
    expert_size: int | None = None
    """Width of one expert."""
    shared_experts: int | None = None
    """Experts that every token goes through besides."""
    active_parameters: int | None = None
    """Number of weights that one token is computed with."""
