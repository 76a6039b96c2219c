"""A WenxinDeployment's status as text. Pure."""

from collections.abc import Iterator

from wenxin_operator.names import Raw
from wenxin_operator.observe import conditions_of


def is_ready(resource: Raw) -> bool:
    """Whether the newest spec is what serves."""
    ready = conditions_of(resource).get("Ready", {})
    return ready.get("status") == "True" and ready.get("observedGeneration") == resource["metadata"].get("generation")


def render(resource: Raw) -> str:
    """Some lines: what it is, what it serves, and each condition with its reason and message."""
    return "\n".join(_lines(resource))


def _lines(resource: Raw) -> Iterator[str]:
    metadata, status = resource["metadata"], resource.get("status") or {}
    wanted = (resource.get("spec") or {}).get("replicas", 1)
    yield f"{metadata['namespace']}/{metadata['name']}: {status.get('readyReplicas', 0)} of {wanted} ready"
    if not status:
        yield "  no status yet: does the operator run, and does it serve this namespace?"
        return
    if status.get("endpoint"):
        yield f"  endpoint  {status['endpoint']}"
    if model := _model(status.get("model") or {}, resource.get("spec") or {}):
        yield f"  model     {model}"
    conditions = conditions_of(resource)
    if any(each.get("observedGeneration") != metadata.get("generation") for each in conditions.values()):
        yield "  the operator has yet to see the newest spec; what follows is of an older one"
    width = max(map(len, conditions), default=0)
    for name, each in conditions.items():
        yield f"  {name:<{width}}  {each['status']:<7}  {each.get('reason', '')}: {each.get('message', '')}"


def _model(model: Raw, spec: Raw) -> str:
    parts = [model.get("name"), model.get("architecture")]
    if model.get("parameters"):
        active = f" ({model['activeParameters']:,} active)" if model.get("activeParameters") else ""
        parts.append(f"{model['parameters']:,} parameters{active}")
    if spec.get("quantization", "none") != "none":
        parts.append(f"{spec['quantization']} weights")
    if model.get("contextLength"):
        parts.append(f"{model['contextLength']} tokens of context")
    if model.get("digest"):
        parts.append(str(model["digest"])[:19])
    return ", ".join(str(part) for part in parts if part)
