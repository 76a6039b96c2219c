"""Who may talk to the pods, and whom they may talk to. Policies add up: a team that needs more adds its own."""

import ipaddress
from urllib.parse import urlsplit

from wenxin_operator.api.deployment import DeploymentSpec
from wenxin_operator.api.model import ModelSpec
from wenxin_operator.names import (
    COMPONENT_DOWNLOAD,
    COMPONENT_INSPECT,
    COMPONENT_RUNTIME,
    LABEL_CLIENTS,
    LABEL_COMPONENT,
    LABEL_MODEL,
    NETWORK_POLICY,
    Raw,
    download_policy,
    inspect_policy,
    pod_selector,
)
from wenxin_operator.plan import answer_cache
from wenxin_operator.plan.flags import GRPC_PORT, PORT
from wenxin_operator.plan.manifest import OperatorSettings, Owner

NAMESPACE_NAME = "kubernetes.io/metadata.name"  # the API server sets it on every namespace


def serving_policy(owner: Owner, spec: DeploymentSpec, settings: OperatorSettings, *, together: bool) -> Raw:
    """In: HTTP and gRPC, for this namespace, the operator's, and namespaces labelled as clients. Out: what is declared.

    That is DNS, the collector of traces and the Redis of the answer cache where there is one. Weights come from a
    volume; nothing is fetched.

    Args:
        owner: The WenxinDeployment.
        spec: Its spec.
        settings: The operator's.
        together: Several pods make a replica: they may talk to each other on any port, for gloo and NCCL choose theirs
            when they connect.
    """
    pods = {"podSelector": {"matchLabels": pod_selector(owner.key.name)}}
    endpoint = spec.monitoring.otlp_endpoint
    ports = (PORT, GRPC_PORT) if spec.grpc else (PORT,)
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
            **pods,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": callers, "ports": [{"port": port, "protocol": "TCP"} for port in ports]},
                *([{"from": [pods]}] if together else ()),
            ],
            "egress": [
                _dns(),
                *([_port_of(endpoint)] if endpoint else ()),
                *answer_cache.egress(owner.key.name, spec.answer_cache),
                *([{"to": [pods]}] if together else ()),
            ],
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


def download_policy_of(owner: Owner, spec: ModelSpec, settings: OperatorSettings) -> Raw:
    """In: the operator, which asks how far it is. Out: names, and the port of the source, its mirror or the proxy.

    A hub sends its downloaders on to hosts of other names: its port is open to everywhere.
    """
    pods = {LABEL_MODEL: owner.key.name, LABEL_COMPONENT: COMPONENT_DOWNLOAD}
    operator = {"namespaceSelector": {"matchLabels": {NAMESPACE_NAME: settings.lease_namespace}}}
    own = spec.url if spec.url.startswith("http") else "https://"
    endpoints = dict.fromkeys([spec.mirror or own, *([spec.proxy] if spec.proxy else ())])
    return owner.child(
        NETWORK_POLICY,
        download_policy(owner.key.name),
        COMPONENT_DOWNLOAD,
        spec={
            "podSelector": {"matchLabels": pods},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [operator], "ports": [{"port": PORT, "protocol": "TCP"}]}],
            "egress": [_dns(), *map(_port_of, endpoints)],
        },
    )


def _port_of(endpoint: str) -> Raw:
    """One port of wherever the endpoint's host may be. A name outside the cluster may be any address."""
    url = urlsplit(endpoint)
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    peer = _peer(url.hostname or "")
    return {**({"to": [peer]} if peer else {}), "ports": [{"port": port, "protocol": "TCP"}]}


def _peer(host: str) -> Raw | None:
    """What a policy can say of a host: an address, a Service's namespace, or nothing."""
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        name, *where = host.split(".")
        if not name:
            return None
        if not where:
            return {"podSelector": {}}
        in_cluster = len(where) > 1 and where[1] == "svc"
        return {"namespaceSelector": {"matchLabels": {NAMESPACE_NAME: where[0]}}} if in_cluster else None
    return {"ipBlock": {"cidr": f"{address}/32"}}


def _dns() -> Raw:
    ports = [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    return {"to": [{"namespaceSelector": {"matchLabels": {NAMESPACE_NAME: "kube-system"}}}], "ports": ports}
