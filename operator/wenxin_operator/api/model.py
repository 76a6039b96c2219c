"""WenxinModel: weights as a thing of their own, verified once and served by any number of deployments."""

from typing import Self

from pydantic import ConfigDict, Field, model_validator

from wenxin_operator.api.fields import Part
from wenxin_operator.api.status import Condition, ModelFacts
from wenxin_operator.api.weights import WEIGHTS_LAWS, Weights, judge, one_of, schema_of

_LAWS = (one_of("source", "preset"), *WEIGHTS_LAWS)


class ModelSpec(Weights):
    """Where the weights come from, and where they are kept."""

    model_config = ConfigDict(json_schema_extra=schema_of(_LAWS))

    @model_validator(mode="after")
    def _laws(self) -> Self:
        judge(self, _LAWS)
        return self


class Download(Part):
    """How far a download is. While it runs, it is asked every 10 seconds; afterwards this is how it ended."""

    done_bytes: int = 0
    """What has been fetched, by earlier attempts too."""
    total_bytes: int = 0
    """Size of all files; 0 while it is not known."""
    files: int = 0
    """Files that are complete."""
    total_files: int = 0
    """Files that there are."""
    bytes_per_second: int = 0
    """How fast it is now."""
    seconds_left: int | None = None
    """How long the rest takes at that speed."""


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

    `Ready`: the weights lie on a claim, each downloaded file with the digest that `checksums` or the source tells, and
    a Job has read the whole checkpoint from it: config.json names an architecture that the runtime serves, every weight
    that it needs is there with the right shape, and the tokenizer loads. A failed attempt is repeated after 10 s, 20 s,
    40 s and so on, at most every 5 minutes, and goes on with what the last one fetched, so a claim that is filled
    later, or a hub that comes back, needs no further step. After a change of source or revision it is False until the
    other weights are there; deployments go on serving the old ones meanwhile."""
    origin: str | None = Field(default=None, max_length=1024)
    """The source with its revision, a preset's included."""
    location: str | None = Field(default=None, max_length=1024)
    """Where verified weights lie, as `pvc://CLAIM/PATH`."""
    revision: str | None = Field(default=None, max_length=256)
    """What a download fetched: the hub's commit, or a hash of what the server listed."""
    progress: str | None = Field(default=None, max_length=16)
    """How much of a download is there, such as 37 %."""
    size: str | None = Field(default=None, max_length=16)
    """Size of the weights, such as 43.7 GB."""
    download: Download | None = None
    """How far the download is."""
    source_hash: str | None = Field(default=None, max_length=64)
    """Of what `digest` and `facts` were read: a hash of the origin and the claim's identity."""
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
