"""What NetworkPolicies mean, without a cluster: may A open a connection to B on port P?

The local cluster's network enforces no NetworkPolicy, and the program that could (sigs.k8s.io/kube-network-policies) is
not to be had from the Go module proxy. So the policies that the operator writes are judged here, by the semantics that
the Kubernetes API reference publishes for networking.k8s.io/v1. Pure: no cluster, no clock.

Not covered, because no policy can: answers on an open connection (always allowed), traffic between a pod and its own
node (always allowed: see `Node`), and what a Service's address becomes (ask with the pod's own port).
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Policy = Mapping[str, Any]
Selector = Mapping[str, Any]


@dataclass(frozen=True)
class Pod:
    """A pod as policies see it; `ports` are its named container ports."""

    name: str
    namespace: str
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    ip: str | None = None

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> "Pod":
        """The pod of a manifest as the API server returns it."""
        meta = manifest["metadata"]
        containers = manifest["spec"]["containers"]
        ports = {p["name"]: p["containerPort"] for c in containers for p in c.get("ports", []) if "name" in p}
        address = manifest.get("status", {}).get("podIP")
        return cls(meta["name"], meta["namespace"], meta.get("labels", {}), ports, address)


@dataclass(frozen=True)
class Outside:
    """An address that belongs to no pod."""

    ip: str


@dataclass(frozen=True)
class Node:
    """The node on which the other side runs: the kubelet with its probes, for example."""


Peer = Pod | Outside | Node


@dataclass(frozen=True)
class Verdict:
    """The answer and the sentence that explains it; true when the connection is allowed."""

    allowed: bool
    reason: str

    def __bool__(self) -> bool:
        return self.allowed


@dataclass(frozen=True)
class Network:
    """All policies, and the labels of all namespaces."""

    policies: Sequence[Policy]
    namespaces: Mapping[str, Mapping[str, str]]

    def may_connect(self, source: Peer, target: Peer, port: int, protocol: str = "TCP") -> Verdict:
        """Judge one new connection to `port` of `target`; both sides must agree."""
        if isinstance(source, Node) or isinstance(target, Node) or source == target:
            return Verdict(True, "a pod's own node, and the pod itself, are never shut out")
        for direction, selected, peer in (("Egress", source, target), ("Ingress", target, source)):
            verdict = self._judge(direction, selected, peer, target, port, protocol)
            if not verdict:
                return verdict
        return verdict

    def _judge(self, direction: str, selected: Peer, peer: Peer, target: Peer, port: int, protocol: str) -> Verdict:
        if not isinstance(selected, Pod):
            return Verdict(True, "no policy selects what is no pod")
        isolating = [policy for policy in self.policies if _isolates(policy, direction, selected)]
        if not isolating:
            return Verdict(True, f"no policy isolates {selected.name} for {direction}")
        for policy in isolating:
            for rule in policy["spec"].get(direction.lower(), []) or []:
                if self._peer_matches(policy, rule.get(_SIDE[direction]), peer) and _port_matches(
                    rule.get("ports"), target, port, protocol
                ):
                    return Verdict(True, f"{_name(policy)} admits {direction} of {selected.name}")
        names = ", ".join(map(_name, isolating))
        return Verdict(
            False, f"{names} isolates {selected.name} for {direction} and no rule admits port {port}/{protocol}"
        )

    def _peer_matches(self, policy: Policy, peers: Iterable[Mapping[str, Any]] | None, peer: Peer) -> bool:
        """An absent or empty list admits everyone."""
        listed = list(peers or [])
        return not listed or any(self._one_matches(policy, each, peer) for each in listed)

    def _one_matches(self, policy: Policy, wanted: Mapping[str, Any], peer: Peer) -> bool:
        if "ipBlock" in wanted:
            address = None if isinstance(peer, Node) else peer.ip
            return address is not None and _in_block(wanted["ipBlock"], address)
        if not isinstance(peer, Pod):
            return False
        if "namespaceSelector" in wanted:
            if not matches(wanted["namespaceSelector"], self._labels(peer.namespace)):
                return False
        elif peer.namespace != policy["metadata"]["namespace"]:
            return False
        return matches(wanted.get("podSelector") or {}, peer.labels)

    def _labels(self, namespace: str) -> Mapping[str, str]:
        """The API server gives every namespace the label of its own name."""
        return {"kubernetes.io/metadata.name": namespace} | dict(self.namespaces.get(namespace, {}))


_SIDE = {"Ingress": "from", "Egress": "to"}


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """True when a label selector selects the labels; the empty selector selects all."""
    plain = all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
    return plain and all(_expression_holds(each, labels) for each in selector.get("matchExpressions") or [])


def _expression_holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values") or []
    match expression["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    raise ValueError(f"There is no selector operator {expression['operator']!r}.")


def _isolates(policy: Policy, direction: str, pod: Pod) -> bool:
    spec = policy["spec"]
    # Without policyTypes a policy is about ingress, and about egress only when it has an egress rule.
    types = spec.get("policyTypes") or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])
    here = policy["metadata"]["namespace"] == pod.namespace
    return here and direction in types and matches(spec.get("podSelector") or {}, pod.labels)


def _port_matches(ports: Iterable[Mapping[str, Any]] | None, target: Peer, port: int, protocol: str) -> bool:
    """An absent or empty list admits every port."""
    listed = list(ports or [])
    return not listed or any(_one_port_matches(each, target, port, protocol) for each in listed)


def _one_port_matches(wanted: Mapping[str, Any], target: Peer, port: int, protocol: str) -> bool:
    if wanted.get("protocol", "TCP") != protocol:
        return False
    first = wanted.get("port")
    if first is None:
        return True
    if isinstance(first, str):
        return isinstance(target, Pod) and target.ports.get(first) == port
    return bool(first <= port <= wanted.get("endPort", first))


def _in_block(block: Mapping[str, Any], address: str) -> bool:
    ip = ipaddress.ip_address(address)
    holes = [ipaddress.ip_network(each) for each in block.get("except") or []]
    return ip in ipaddress.ip_network(block["cidr"]) and not any(ip in hole for hole in holes)


def _name(policy: Policy) -> str:
    return f"NetworkPolicy {policy['metadata']['namespace']}/{policy['metadata']['name']}"
