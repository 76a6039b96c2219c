"""Stories about policies: who may talk to whom."""

from typing import Any

import pytest
import yaml

from e2e.harness.network_policy import Network, Node, Outside, Peer, Pod, matches

NAMESPACES = {"team": {"tier": "app"}, "other": {"tier": "app"}, "monitoring": {"tier": "ops"}}
SERVER = Pod("server", "team", {"app": "server"}, {"http": 8000, "admin": 9000}, ip="10.0.0.1")
CLIENT = Pod("client", "team", {"app": "client"}, ip="10.0.0.2")
STRANGER = Pod("stranger", "other", {"app": "client"}, ip="10.0.0.3")
PROMETHEUS = Pod("prometheus", "monitoring", {"app": "prometheus"}, ip="10.0.0.4")
INTERNET = Outside("203.0.113.7")


def policy(spec: str, name: str = "p", namespace: str = "team") -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": yaml.safe_load(spec)}


DENY_ALL = policy("{podSelector: {}, policyTypes: [Ingress, Egress]}")
DENY_IN = policy("podSelector: {}")
HTTP_FOR_CLIENTS = policy("""
podSelector: {matchLabels: {app: server}}
ingress:
- from: [{podSelector: {matchLabels: {app: client}}}]
  ports: [{port: http}]
""")
HTTP_FOR_ALL = policy("{podSelector: {matchLabels: {app: server}}, ingress: [{ports: [{port: 8000}]}]}")
MONITORING = policy("""
podSelector: {}
ingress:
- from:
  - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}
    podSelector: {matchLabels: {app: prometheus}}
""")
EITHER = policy("""
podSelector: {}
ingress:
- from: [{namespaceSelector: {matchLabels: {tier: ops}}}, {podSelector: {}}]
""")
APPS = policy("""
podSelector: {}
ingress:
- from: [{namespaceSelector: {matchExpressions: [{key: tier, operator: In, values: [app]}]}}]
""")
RANGE = policy("{podSelector: {}, ingress: [{ports: [{port: 8000, endPort: 8010}, {protocol: UDP}]}]}")
OUT_TO_DNS = policy("{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{protocol: UDP, port: 53}]}]}")
OUT_IMPLIED = policy(
    "{podSelector: {}, ingress: [{}], egress: [{to: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.128/25]}}]}]}"
)
BLOCK = policy("{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}]}]}")

STORIES: list[tuple[str, list[dict[str, Any]], Peer, Peer, int, str, bool]] = [
    ("without policies everyone talks", [], STRANGER, SERVER, 8000, "TCP", True),
    (
        "a policy elsewhere isolates no one here",
        [policy("podSelector: {}", namespace="other")],
        CLIENT,
        SERVER,
        8000,
        "TCP",
        True,
    ),
    ("an empty ingress shuts everyone out", [DENY_IN], CLIENT, SERVER, 8000, "TCP", False),
    ("an empty ingress lets the pod itself speak", [DENY_IN], CLIENT, PROMETHEUS, 9090, "TCP", True),
    ("deny-all stops what leaves", [DENY_ALL], CLIENT, PROMETHEUS, 9090, "TCP", False),
    ("the node's probes always arrive", [DENY_ALL], Node(), SERVER, 8000, "TCP", True),
    ("a pod always reaches itself", [DENY_ALL], SERVER, SERVER, 8000, "TCP", True),
    ("a named port is the target's", [HTTP_FOR_CLIENTS], CLIENT, SERVER, 8000, "TCP", True),
    ("another port of the same pod is shut", [HTTP_FOR_CLIENTS], CLIENT, SERVER, 9000, "TCP", False),
    ("another protocol is shut", [HTTP_FOR_CLIENTS], CLIENT, SERVER, 8000, "UDP", False),
    ("a pod selector alone means the policy's namespace", [HTTP_FOR_CLIENTS], STRANGER, SERVER, 8000, "TCP", False),
    ("what no policy selects stays open", [HTTP_FOR_CLIENTS], STRANGER, CLIENT, 22, "TCP", True),
    ("a rule without peers admits the world", [HTTP_FOR_ALL], INTERNET, SERVER, 8000, "TCP", True),
    ("a rule without peers still counts ports", [HTTP_FOR_ALL], INTERNET, SERVER, 9000, "TCP", False),
    ("policies add up", [DENY_IN, HTTP_FOR_ALL], CLIENT, SERVER, 8000, "TCP", True),
    ("both selectors must hold in one peer", [MONITORING], PROMETHEUS, SERVER, 9000, "TCP", True),
    ("the wrong namespace fails both selectors", [MONITORING], STRANGER, SERVER, 9000, "TCP", False),
    ("two peers are alternatives", [EITHER], PROMETHEUS, SERVER, 1, "TCP", True),
    ("the second of two peers is in the policy's namespace", [EITHER], STRANGER, SERVER, 1, "TCP", False),
    ("namespaces are selected by expression", [APPS], STRANGER, SERVER, 1, "TCP", True),
    ("namespaces that the expression leaves out stay out", [APPS], PROMETHEUS, SERVER, 1, "TCP", False),
    ("the end of a port range counts", [RANGE], CLIENT, SERVER, 8010, "TCP", True),
    ("beyond a port range is shut", [RANGE], CLIENT, SERVER, 8011, "TCP", False),
    ("a protocol without a port is all its ports", [RANGE], CLIENT, SERVER, 9999, "UDP", True),
    ("egress may be open for names only", [OUT_TO_DNS], CLIENT, Outside("10.96.0.10"), 53, "UDP", True),
    ("egress that is open for names is shut for the rest", [OUT_TO_DNS], CLIENT, INTERNET, 443, "TCP", False),
    ("egress policy leaves ingress alone", [OUT_TO_DNS], STRANGER, SERVER, 8000, "TCP", True),
    ("an egress rule implies the egress type", [OUT_IMPLIED], CLIENT, STRANGER, 80, "TCP", False),
    ("a block admits its addresses", [OUT_IMPLIED], CLIENT, INTERNET, 443, "TCP", True),
    ("a block does not admit its exceptions", [OUT_IMPLIED], CLIENT, Outside("203.0.113.200"), 443, "TCP", False),
    ("a block admits nobody outside it", [BLOCK], Outside("198.51.100.1"), SERVER, 8000, "TCP", False),
    ("a selector never means an address outside", [EITHER], INTERNET, SERVER, 8000, "TCP", False),
]  # fmt: skip - a table


@pytest.mark.parametrize(
    ("policies", "source", "target", "port", "protocol", "allowed"),
    [pytest.param(*story[1:], id=story[0]) for story in STORIES],
)
def test_a_connection_is_judged_as_the_api_reference_says(
    policies: list[dict[str, Any]], source: Peer, target: Peer, port: int, protocol: str, allowed: bool
) -> None:
    verdict = Network(policies, NAMESPACES).may_connect(source, target, port, protocol)
    assert bool(verdict) is allowed, verdict.reason


def test_a_refusal_names_the_policy_the_pod_and_the_port() -> None:
    verdict = Network([DENY_IN], NAMESPACES).may_connect(CLIENT, SERVER, 8000)
    assert verdict.reason == "NetworkPolicy team/p isolates server for Ingress and no rule admits port 8000/TCP"


def test_a_pod_is_read_from_its_manifest() -> None:
    container = {"name": "c", "ports": [{"name": "http", "containerPort": 8000}, {"containerPort": 1}]}
    manifest = {
        "metadata": {"name": "server", "namespace": "team", "labels": {"app": "server"}},
        "spec": {"containers": [container]},
        "status": {"podIP": "10.0.0.1"},
    }
    assert Pod.of(manifest) == Pod("server", "team", {"app": "server"}, {"http": 8000}, "10.0.0.1")


@pytest.mark.parametrize(
    ("expression", "selected"),
    [
        ("{key: app, operator: NotIn, values: [web]}", True),
        ("{key: none, operator: NotIn, values: [web]}", True),
        ("{key: app, operator: Exists}", True),
        ("{key: app, operator: DoesNotExist}", False),
    ],
)
def test_selector_expressions_mean_what_kubernetes_says(expression: str, selected: bool) -> None:
    assert matches({"matchExpressions": [yaml.safe_load(expression)]}, {"app": "server"}) is selected


def test_an_unknown_selector_operator_is_an_error() -> None:
    with pytest.raises(ValueError, match="Near"):
        matches({"matchExpressions": [{"key": "a", "operator": "Near"}]}, {})
