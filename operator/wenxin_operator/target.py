"""What the pods should run: an accepted spec and verified weights, as a ControllerRevision keeps them. Pure."""

from dataclasses import dataclass
from typing import Any, Self

from wenxin_operator.api.deployment import DeploymentSpec
from wenxin_operator.api.fields import ClaimPath, claim_path
from wenxin_operator.api.parsing import parse
from wenxin_operator.api.status import ModelFacts
from wenxin_operator.errors import SpecError
from wenxin_operator.names import Raw


@dataclass(frozen=True, slots=True)
class VerifiedModel:
    """Weights that an inspection has read.

    Attributes:
        name: The WenxinModel.
        source: Its origin at that time: where the weights came from.
        location: Where they lie, as pvc://CLAIM/PATH; None where that is the source.
    """

    name: str
    source: str
    digest: str
    facts: ModelFacts
    location: str | None = None

    @property
    def where(self) -> ClaimPath:
        """The claim and the folder that pods mount."""
        return claim_path(self.location or self.source)


@dataclass(frozen=True, slots=True)
class Target:
    """Which spec the pods follow, and which weights they serve."""

    spec: DeploymentSpec
    model: VerifiedModel

    def data(self) -> Raw:
        """As a ControllerRevision's data."""
        model = {"name": self.model.name, "source": self.model.source, "digest": self.model.digest}
        if self.model.location:
            model["location"] = self.model.location
        return {"spec": _dump(self.spec), "model": model | {"facts": _dump(self.model.facts)}}

    @classmethod
    def from_data(cls, data: Any) -> Self | None:
        """Read what `data` wrote; None where another version of the operator wrote what this one cannot read."""
        try:
            spec, facts = parse(DeploymentSpec, data["spec"]), parse(ModelFacts, data["model"]["facts"])
            name, source, digest = (str(data["model"][field]) for field in ("name", "source", "digest"))
            location = data["model"].get("location")
        except (KeyError, TypeError):
            return None
        if isinstance(spec, SpecError) or isinstance(facts, SpecError):
            return None
        return cls(spec, VerifiedModel(name, source, digest, facts, location))

    def scaled(self, replicas: int) -> Self:
        """The same with another number of pods."""
        return type(self)(self.spec.model_copy(update={"replicas": replicas}), self.model)


def _dump(part: DeploymentSpec | ModelFacts) -> Raw:
    return part.model_dump(mode="json", by_alias=True, exclude_none=True)
