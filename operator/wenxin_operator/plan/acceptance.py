"""Which spec and which weights the pods are to follow: the newest where they are good, the last good ones otherwise."""

from dataclasses import dataclass

from wenxin_operator import fit
from wenxin_operator.api.deployment import DeploymentSpec
from wenxin_operator.errors import SpecError
from wenxin_operator.observe import DeploymentSnapshot
from wenxin_operator.target import Target, VerifiedModel


@dataclass(frozen=True, slots=True)
class Decision:
    """What a pass goes by.

    Attributes:
        spec: What all but the pods follow; None when no spec was ever accepted.
        target: What the pods follow; None until the first accepted spec's weights are verified.
        refusal: Why the newest spec is not accepted.
        held: The newest spec is accepted, but its weights are not verified yet, so pods follow the last target.
    """

    spec: DeploymentSpec | None
    target: Target | None
    refusal: SpecError | None = None
    held: bool = False


def decide(seen: DeploymentSnapshot) -> Decision:
    """Judge the newest spec. The count of pods is followed as soon as the spec is accepted, whatever the weights."""
    last = seen.target
    if isinstance(seen.spec, SpecError):
        return _refused(seen.spec, last)
    weights = _weights(seen.spec, seen)
    if weights is None:
        return Decision(seen.spec, last.scaled(seen.spec.replicas) if last else None, held=True)
    if refusal := unsuitable(seen.spec, weights):
        return _refused(refusal, last)
    return Decision(seen.spec, Target(seen.spec, weights))


def unsuitable(spec: DeploymentSpec, model: VerifiedModel) -> SpecError | None:
    """Why a spec that is valid by itself can not serve these weights."""
    longest = model.facts.context_length
    if spec.max_model_len is not None and longest and spec.max_model_len > longest:
        return SpecError(
            f"spec.maxModelLen: {spec.max_model_len} is more than the {longest} tokens that model {model.name} was "
            "made for; leave it out to use them all",
            reason="ModelLenTooLong",
        )
    return _uneven(spec, model) or _too_large(spec, model)


def _uneven(spec: DeploymentSpec, model: VerifiedModel) -> SpecError | None:
    tensor, sizes, experts = spec.parallelism.tensor, model.facts.tensor_parallel_sizes, model.facts.experts
    if sizes and tensor not in sizes:
        return SpecError(
            f"spec.parallelism.tensor: {tensor} does not divide model {model.name}; "
            f"{', '.join(str(size) for size in sizes if size <= fit.MOST_GPUS_OF_A_NODE)} do",
            reason="TensorSizeUneven",
        )
    if spec.parallelism.expert and sizes and (not experts or experts % tensor):
        has = f"has {experts} experts, which {tensor} does not divide" if experts else "has no experts"
        return SpecError(f"spec.parallelism.expert: model {model.name} {has}", reason="ExpertsUneven")
    return None


def _too_large(spec: DeploymentSpec, model: VerifiedModel) -> SpecError | None:
    """Refuse what fits none of the cards that the spec names; where it names none, the runtime finds out."""
    cards = [card for product in spec.accelerator.products if (card := fit.card_bytes(product))]
    if len(cards) < len(spec.accelerator.products) or not cards or not fit.known(model.facts):
        return None
    # The runtime shortens the context where none is asked for, but not below one step's prompt.
    context = spec.max_model_len or min(model.facts.context_length, fit.STEP_TOKENS)
    demand = fit.Demand(context, dtype=spec.dtype, quantization=spec.quantization)
    card = min(cards)
    asked = fit.layout(model.facts, demand, card, spec.parallelism.tensor)
    if asked.fits:
        return None
    smallest = next((each.tensor for each in fit.layouts(model.facts, demand, card) if each.fits), None)
    advice = f"spec.parallelism.tensor: {smallest} fits" if smallest else "no number of these GPUs in one node fits"
    return SpecError(
        f"model {model.name} with {context} tokens of context lacks {asked.missing / fit.GIB:.1f} GiB on each of "
        f"{spec.parallelism.tensor} GPUs of {card / fit.GIB:.0f} GiB; {advice}",
        reason="DoesNotFit",
    )


def _weights(spec: DeploymentSpec, seen: DeploymentSnapshot) -> VerifiedModel | None:
    """The verified weights that `spec` asks for; those of the last target as long as it asks for the same."""
    if seen.model and seen.model.verified and seen.model.source == (spec.model.source or seen.model.source):
        return seen.model.verified
    last = seen.target
    if last is None or last.spec.model != spec.model:
        return None
    # Verified once, failing now: pods that run have their weights, and more of them may be wanted.
    return last.model if seen.model is None or seen.model.source == last.model.source else None


def _refused(refusal: SpecError, last: Target | None) -> Decision:
    return Decision(last.spec if last else None, last, refusal)
