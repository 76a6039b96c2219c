"""WenxinModel: weights as a thing of their own, verified once and served by any number of deployments."""

from pydantic import Field

from wenxin_operator.api.fields import Part, Source
from wenxin_operator.api.status import Condition, ModelFacts


class ModelSpec(Part):
    """Where the weights come from."""

    source: Source
    """`pvc://CLAIM/PATH`: the folder PATH of the PersistentVolumeClaim CLAIM in the same namespace. The folder is a
    Hugging Face checkpoint: config.json, *.safetensors, tokenizer.json. It is only ever mounted read-only, so one
    claim may hold many models. Files must be readable by user 65532."""


class ModelStatus(Part):
    """What the operator found."""

    observed_generation: int | None = None
    """The metadata.generation that this status describes."""
    conditions: tuple[Condition, ...] = Field(
        default=(),
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    """What is so, one entry for each of these types.

    `Accepted`: the spec is valid.

    `Ready`: the claim exists, and an inspect Job has read the whole checkpoint from it: config.json names an
    architecture that the runtime serves, every weight that it needs is there with the right shape, and the tokenizer
    loads. A failed inspection is repeated after 10 s, 20 s, 40 s and so on, at most every 5 minutes, so a claim that
    is filled later needs no further step."""
    source_hash: str | None = Field(default=None, max_length=64)
    """Of what `digest` and `facts` were read: a hash of spec.source and the claim's identity."""
    digest: str | None = Field(default=None, max_length=128)
    """Digest of all files of the checkpoint. Equal digests are equal weights, wherever they lie."""
    facts: ModelFacts | None = None
    """What the checkpoint says of itself."""


class WenxinModel(Part):
    """ERNIE 4.5 weights, and what is known of them."""

    spec: ModelSpec
    """What you want."""
    status: ModelStatus | None = None
    """What there is. Written by the operator."""
