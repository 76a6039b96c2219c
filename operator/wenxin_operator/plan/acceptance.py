"""Which spec and which weights the pods are to follow: the newest where they are good, the last good ones otherwise."""

from dataclasses import dataclass

from wenxin_operator import fit
from wenxin_operator.api.deployment import DeploymentSpec
from wenxin_operator.api.status import ModelFacts
from wenxin_operator.errors import SpecError
from wenxin_operator.observe import DeploymentSnapshot
from wenxin_operator.presets import PRESETS
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
        expected = _expected(seen.spec, seen)
        if expected and (refusal := unsuitable(seen.spec, expected)):
            return _refused(refusal, last)
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
    return _uneven(spec, model) or _uneven_experts(spec, model) or _crowded(spec) or _too_large(spec, model)


def _uneven(spec: DeploymentSpec, model: VerifiedModel) -> SpecError | None:
    asked, sizes = spec.parallelism, model.facts.tensor_parallel_sizes
    if sizes and asked.tensor not in sizes:
        return SpecError(
            f"spec.parallelism.tensor: {asked.tensor} does not divide model {model.name}; "
            f"{', '.join(map(str, sizes))} do",
            reason="TensorSizeUneven",
        )
    if sizes and model.facts.vocab_size % asked.ranks:
        return SpecError(
            f"spec.parallelism.data: tensor times data, {asked.ranks}, does not divide the {model.facts.vocab_size} "
            f"tokens that model {model.name} knows, which all of them share; use less",
            reason="TensorSizeUneven",
        )
    return None


def _uneven_experts(spec: DeploymentSpec, model: VerifiedModel) -> SpecError | None:
    asked, experts = spec.parallelism, model.facts.experts
    if not asked.expert or not model.facts.tensor_parallel_sizes:
        return None
    if not experts or experts % asked.ranks:
        ranks = f"{asked.ranks}, tensor times data," if asked.data > 1 else asked.ranks
        has = f"has {experts} experts, which {ranks} does not divide" if experts else "has no experts"
        return SpecError(f"spec.parallelism.expert: model {model.name} {has}", reason="ExpertsUneven")
    if asked.redundant_experts % asked.ranks:
        return SpecError(
            f"spec.parallelism.redundantExperts: {asked.redundant_experts} places are no multiple of the {asked.ranks} "
            "GPUs, which all have as many",
            reason="ExpertsUneven",
        )
    return None


def _crowded(spec: DeploymentSpec) -> SpecError | None:
    asked = spec.parallelism
    if spec.accelerator.resource == "none" or asked.ranks <= fit.MOST_GPUS_OF_A_NODE * asked.nodes:
        return None
    return SpecError(
        f"spec.parallelism.nodes: {asked.ranks} GPUs on {asked.nodes} nodes are {asked.ranks // asked.nodes} in one "
        f"pod, and no node has more than {fit.MOST_GPUS_OF_A_NODE}; "
        f"nodes: {asked.ranks // fit.GPUS_OF_A_NODE} makes it {fit.GPUS_OF_A_NODE}",
        reason="DoesNotFit",
    )


def _too_large(spec: DeploymentSpec, model: VerifiedModel) -> SpecError | None:
    """Refuse what fits none of the cards that the spec names; where it names none, the runtime finds out."""
    cards = [card for product in spec.accelerator.products if (card := fit.card_bytes(product))]
    if len(cards) < len(spec.accelerator.products) or not cards or not fit.known(model.facts):
        return None
    # The runtime shortens the context where none is asked for, but not below one step's prompt.
    context = spec.max_model_len or min(model.facts.context_length, fit.STEP_TOKENS)
    demand = fit.Demand(context, dtype=spec.dtype, quantization=spec.quantization)
    card, layout = min(cards), _layout(spec)
    asked = fit.judge(model.facts, demand, card, layout)
    if asked.fits:
        return None
    return SpecError(
        f"model {model.name} with {context} tokens of context lacks {asked.missing / fit.GIB:.1f} GiB on each of "
        f"{layout.gpus} GPUs of {card / fit.GIB:.0f} GiB; {_advice(model.facts, demand, card, layout)}",
        reason="DoesNotFit",
    )


def _layout(spec: DeploymentSpec) -> fit.Layout:
    asked = spec.parallelism
    return fit.Layout(asked.tensor, asked.data, asked.expert, asked.redundant_experts, asked.nodes)


def _advice(facts: ModelFacts, demand: fit.Demand, card: int, asked: fit.Layout) -> str:
    """Name the smallest layout that does, on nodes as large as those that are asked for."""
    settled = fit.Settled(
        expert=asked.expert or None,
        redundant_experts=asked.redundant_experts,
        gpus_of_a_node=max(fit.GPUS_OF_A_NODE, asked.gpus // asked.nodes),
    )
    found = next((each.layout for each in fit.judged(facts, demand, card, settled) if each.fits), None)
    if found is None:
        return f"no number of these GPUs up to {fit.MOST_GPUS} fits"
    more = [f"data: {found.data}"] * (found.data > 1) + ["expert: true"] * found.expert
    more += [f"nodes: {found.nodes}"] * (found.nodes > 1)
    return f"spec.parallelism.tensor: {found.tensor}{' with ' * bool(more)}{' and '.join(more)} fits"


def _weights(spec: DeploymentSpec, seen: DeploymentSnapshot) -> VerifiedModel | None:
    """The verified weights that `spec` asks for; those of the last target as long as it asks for the same."""
    if seen.model and seen.model.verified and (spec.model.ref or seen.model.origin == spec.model.origin):
        return seen.model.verified
    last = seen.target
    if last is None or last.spec.model.same_weights != spec.model.same_weights:
        return None
    # Verified once, failing now: pods that run have their weights, and more of them may be wanted.
    return last.model if seen.model is None or seen.model.origin == last.model.source else None


def _expected(spec: DeploymentSpec, seen: DeploymentSnapshot) -> VerifiedModel | None:
    """A preset that is still to be fetched: its shapes are known, and what they do not fit is not worth fetching."""
    preset = (seen.model.preset if seen.model else None) if spec.model.ref else spec.model.preset
    facts = PRESETS.get(preset or "")
    return VerifiedModel(preset or "", "", "", facts) if facts else None


def _refused(refusal: SpecError, last: Target | None) -> Decision:
    return Decision(last.spec if last else None, last, refusal)
