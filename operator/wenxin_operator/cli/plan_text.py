"""A plan as text: what the operator would say, do, and leave alone. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from wenxin_operator.changes import Changes
from wenxin_operator.names import CONFIG_MAP, LABEL_REVISION, WORKLOADS, Raw

_FIRST = ("Accepted", "ModelReady")
"""Conditions that say what will be; the others say what is."""


@dataclass(frozen=True, slots=True)
class Planned:
    """What would follow from one resource.

    Attributes:
        resource: As it would be.
        conditions: What the operator would say of it first, by type.
        todo: What it would do.
        objects: All that should exist.
        children: All that exists of it.
    """

    resource: Raw
    conditions: Mapping[str, Raw]
    todo: Changes
    objects: Sequence[Raw]
    children: Sequence[Raw]

    @property
    def accepted(self) -> bool:
        """Whether its spec is good."""
        return self.conditions.get("Accepted", {}).get("status") == "True"

    @property
    def replaces_pods(self) -> bool:
        """Whether there are pods that would not be the ones asked for."""
        return bool(_revisions(self.objects) and _revisions(self.children) - _revisions(self.objects))


def render(planned: Planned) -> str:
    """Some lines."""
    metadata = planned.resource["metadata"]
    head = f"{planned.resource['kind']} {metadata['namespace']}/{metadata['name']}"
    return "\n".join([head, *(f"  {line}" for line in _lines(planned))])


def _lines(planned: Planned) -> Iterator[str]:
    for name in _FIRST:
        if one := planned.conditions.get(name):
            yield f"{name:<10}  {one['status']:<7}  {one.get('reason', '')}: {one.get('message', '')}"
    for each in planned.todo.apply:
        yield f"{'create' if each.new else 'update':<10}  {_name(each.manifest)}{'' if each.new else f': {each.why}'}"
    for gone in planned.todo.prune:
        yield f"{'delete':<10}  {_name(gone)}"
    touched = {_name(each.manifest) for each in planned.todo.apply}
    if same := [_name(each) for each in planned.objects if _name(each) not in touched]:
        yield f"{'unchanged':<10}  {', '.join(same)}"
    yield from _pods(planned)


def _pods(planned: Planned) -> Iterator[str]:
    """What it means for the pods, which is what one wants to know before an apply."""
    for workload in (each for each in planned.objects if each["kind"] in WORKLOADS):
        yield f"{'pods':<10}  {_name(workload)}: {_size(workload['spec'])}"
    if planned.replaces_pods:
        yield f"{'pods':<10}  those that run would be replaced, one after the other"
    for each in planned.objects:
        if each["kind"] == CONFIG_MAP and "flags" in (each.get("data") or {}):
            yield f"{'flags':<10}  {' '.join(each['data']['flags'].split())}"


def _size(spec: Raw) -> str:
    if "template" not in spec:  # of a LeaderWorkerSet, whose pods stand one level deeper
        return f"{spec['replicas']} groups of {spec['leaderWorkerTemplate']['size']}"
    resources = spec["template"]["spec"]["containers"][0].get("resources") or {}
    asked = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
    return f"{spec['replicas']}, each with " + ", ".join(f"{name} {amount}" for name, amount in sorted(asked.items()))


def _revisions(things: Iterable[Raw]) -> set[str]:
    """Of the pods that some workloads make; a child without the label makes none that answer requests."""
    templates = (_template(each["spec"]) for each in things if each["kind"] in WORKLOADS)
    labels = ((template.get("metadata") or {}).get("labels") or {} for template in templates)
    return {each[LABEL_REVISION] for each in labels if LABEL_REVISION in each}


def _template(spec: Raw) -> Raw:
    template: Raw | None = spec.get("template") or (spec.get("leaderWorkerTemplate") or {}).get("workerTemplate")
    return template or {}


def _name(thing: Raw) -> str:
    return f"{thing['kind']}/{thing['metadata']['name']}"
