"""What sets the count of a deployment's replicas: our autoscaler, what KEDA makes of it, and others'. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from wenxin_operator.names import (
    GROUP,
    HORIZONTAL_POD_AUTOSCALER,
    SCALED_OBJECT,
    WENXIN_DEPLOYMENT,
    WORKLOADS,
    Raw,
)

SCALERS = (HORIZONTAL_POD_AUTOSCALER, SCALED_OBJECT)
"""Kinds that set a count."""


class Reader(Protocol):
    """The part of observe.Reader that is read here."""

    def all(self, kind: str, namespace: str) -> Sequence[Raw]:
        """All known objects of `kind` in `namespace`."""
        ...

    def serves(self, kind: str) -> bool:
        """Whether the cluster has this kind."""
        ...


@dataclass(frozen=True, slots=True)
class Scalers:
    """Who sets a deployment's count, besides its own children.

    Attributes:
        rivals: Others', as `KIND NAME`, in the order of these.
        of_keda: The HorizontalPodAutoscaler that KEDA has made of our ScaledObject.
        keda: The cluster has ScaledObjects.
    """

    rivals: tuple[str, ...] = ()
    of_keda: Raw | None = None
    keda: bool = False


def see(resource: Raw, children: Sequence[Raw], reader: Reader) -> Scalers:
    """Look for them, where the resource asks for an autoscaler at all.

    Args:
        resource: The WenxinDeployment.
        children: What it controls.
        reader: What is known.
    """
    if not (resource.get("spec") or {}).get("autoscaling"):
        return Scalers()
    namespace, name = resource["metadata"]["namespace"], resource["metadata"]["name"]
    ours = {child["metadata"]["uid"] for child in children}
    counted = {(WENXIN_DEPLOYMENT, name)}
    counted |= {(child["kind"], child["metadata"]["name"]) for child in children if child["kind"] in WORKLOADS}
    others = [
        scaler
        for kind in SCALERS
        for scaler in reader.all(kind, namespace)
        if target_of(scaler) in counted and scaler["metadata"]["uid"] not in ours
    ]
    rivals = (one for one in others if _maker(one) is None and not one["metadata"].get("deletionTimestamp"))
    of_keda = next((one for one in others if _maker(one) in ours), None)
    return Scalers(tuple(sorted(map(_named, rivals))), of_keda, reader.serves(SCALED_OBJECT))


def target_of(scaler: Raw) -> tuple[str, str]:
    """Kind and name of what a scaler sets the count of; another group's WenxinDeployment is none of ours."""
    target = (scaler.get("spec") or {}).get("scaleTargetRef") or {}
    kind, group = target.get("kind", "Deployment"), str(target.get("apiVersion", "")).partition("/")[0]
    return "" if kind == WENXIN_DEPLOYMENT and group != GROUP else kind, target.get("name", "")


def _maker(scaler: Raw) -> str | None:
    """Uid of the ScaledObject that a HorizontalPodAutoscaler was made of; the two are one."""
    owners: Iterable[Raw] = scaler["metadata"].get("ownerReferences") or ()
    return next((one["uid"] for one in owners if one.get("controller") and one.get("kind") == SCALED_OBJECT), None)


def _named(scaler: Raw) -> str:
    return f"{scaler['kind']} {scaler['metadata']['name']}"
