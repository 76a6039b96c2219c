"""Who may talk to the pods, and whom they may talk to. Policies add up: a team that needs more adds its own."""

from wenxin_operator.names import (
    COMPONENT_INSPECT,
    COMPONENT_RUNTIME,
    LABEL_CLIENTS,
    LABEL_COMPONENT,
    LABEL_MODEL,
    NETWORK_POLICY,
    Raw,
    inspect_policy,
    pod_selector,
)
from wenxin_operator.plan.flags import PORT
from wenxin_operator.plan.manifest import OperatorSettings, Owner

NAMESPACE_NAME = "kubernetes.io/metadata.name"  # the API server sets it on every namespace


def serving_policy(owner: Owner, settings: OperatorSettings) -> Raw:
    """In: the HTTP port, for this namespace, the operator's, and namespaces labelled as clients. Out: DNS only.

    The weights come from a volume; nothing is fetched.
    """
    callers = [
        {"podSelector": {}},
        {"namespaceSelector": {"matchLabels": {NAMESPACE_NAME: settings.lease_namespace}}},
        {"namespaceSelector": {"matchLabels": {LABEL_CLIENTS: "true"}}},
    ]
    return owner.child(
        NETWORK_POLICY,
        owner.key.name,
        COMPONENT_RUNTIME,
        spec={
            "podSelector": {"matchLabels": pod_selector(owner.key.name)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": callers, "ports": [{"port": PORT, "protocol": "TCP"}]}],
            "egress": [_dns()],
        },
    )


def inspect_policy_of(owner: Owner) -> Raw:
    """An inspection reads a volume and talks to nobody."""
    pods = {LABEL_MODEL: owner.key.name, LABEL_COMPONENT: COMPONENT_INSPECT}
    return owner.child(
        NETWORK_POLICY,
        inspect_policy(owner.key.name),
        COMPONENT_INSPECT,
        spec={"podSelector": {"matchLabels": pods}, "policyTypes": ["Ingress", "Egress"]},
    )


def _dns() -> Raw:
    ports = [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    return {"to": [{"namespaceSelector": {"matchLabels": {NAMESPACE_NAME: "kube-system"}}}], "ports": ports}
