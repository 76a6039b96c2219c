"""How the pods are reached, and how many of them a node drain may take at once."""

from collections.abc import Mapping

from wenxin_operator.names import (
    COMPONENT_RUNTIME,
    POD_DISRUPTION_BUDGET,
    SERVICE,
    SERVICE_ACCOUNT,
    Raw,
    pod_selector,
)
from wenxin_operator.plan.flags import GRPC_PORT, PORT
from wenxin_operator.plan.manifest import Owner


def service_account(owner: Owner) -> Raw:
    """An identity of the pods' own, with no rights and no token."""
    return owner.child(SERVICE_ACCOUNT, owner.key.name, COMPONENT_RUNTIME, automountServiceAccountToken=False)


def service(owner: Owner, leaders: Mapping[str, str], *, grpc: bool) -> Raw:
    """The endpoint, named as the resource.

    Args:
        owner: The WenxinDeployment.
        leaders: Labels of the pods that answer requests.
        grpc: Whether they speak gRPC too.
    """
    ports = [_port("http", PORT, "http"), *([_port("grpc", GRPC_PORT, "kubernetes.io/h2c")] if grpc else [])]
    return owner.child(
        SERVICE,
        owner.key.name,
        COMPONENT_RUNTIME,
        spec={"type": "ClusterIP", "selector": dict(leaders), "ports": ports},
    )


def _port(name: str, number: int, protocol: str) -> Raw:
    return {"name": name, "port": number, "targetPort": name, "protocol": "TCP", "appProtocol": protocol}


def disruption_budget(owner: Owner) -> Raw:
    """One pod at a time. A pod that is not ready serves nobody and may always be evicted.

    That is one group at a time, too: without one pod, the others of its group are not ready, so nothing of another
    group may be evicted before the first is whole again.
    """
    return owner.child(
        POD_DISRUPTION_BUDGET,
        owner.key.name,
        COMPONENT_RUNTIME,
        spec={
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": pod_selector(owner.key.name)},
        },
    )
