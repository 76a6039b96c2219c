"""Which pods are scraped, and which labels their series get: the one home of both.

A model pod's series carry `namespace`, `deployment` (the WenxinDeployment), `pod` and `revision` (of the pod's
template, so that old and new pods of a rollout can be told apart). Dashboards and rules stand on just these. What
is said here is rendered three times: for the Prometheus Operator's monitors (the chart reads `relabelings.yaml`), for
a plain Prometheus (`scrape-config.yaml`), and as fixed labels for a Prometheus that knows no Kubernetes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wenxin_operator.names import (
    COMPONENT_RUNTIME,
    LABEL_APP,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
    LABEL_MANAGED_BY,
    LABEL_REVISION,
    MANAGED_BY,
)

Config = dict[str, Any]
"""A part of a configuration file, as YAML says it."""

PORT_NAME = "http"
INTERVAL = "30s"
"""Between two scrapes. Rates then need a window of two minutes, which is what Grafana takes by itself."""

_META = "__meta_kubernetes_"


@dataclass(frozen=True)
class Relabelling:
    """Give a target's label the value of what service discovery found, or a fixed one."""

    label: str
    source: str = ""
    value: str = "$1"

    def plain(self) -> Config:
        """As prometheus.yml says it."""
        source = {"source_labels": [self.source]} if self.source else {}
        return {**source, "target_label": self.label, **({} if self.value == "$1" else {"replacement": self.value})}

    def monitor(self) -> Config:
        """As a PodMonitor or ServiceMonitor says it."""
        names = {"source_labels": "sourceLabels", "target_label": "targetLabel"}
        return {names.get(name, name): value for name, value in self.plain().items()}


@dataclass(frozen=True)
class Target:
    """One kind of pod.

    Attributes:
        job: The value of the label `job`.
        selector: The pods' Kubernetes labels.
        labels: What is written on the series, besides `job` and Prometheus' own `instance`.
        honor: Labels that the series bring themselves win.
    """

    job: str
    selector: Mapping[str, str]
    labels: tuple[Relabelling, ...]
    honor: bool = False

    @property
    def relabellings(self) -> tuple[Relabelling, ...]:
        """All of them, in order."""
        return Relabelling("job", value=self.job), *self.labels

    @property
    def label_names(self) -> frozenset[str]:
        """What every series of it carries."""
        return frozenset({"instance", *(each.label for each in self.relabellings)})

    def at(self, *addresses: str, **labels: str) -> Config:
        """Fixed labels for addresses that no Kubernetes tells of.

        Raises:
            ValueError: the labels are not those that a pod would get.
        """
        if {*labels} != {each.label for each in self.labels}:
            raise ValueError(f"a target of {self.job} has the labels {sorted(each.label for each in self.labels)}")
        return {"targets": list(addresses), "labels": {"job": self.job, **labels}}

    def scrape(self, **discovery: Any) -> Config:
        """A job of prometheus.yml, found as `discovery` says."""
        return {"job_name": self.job, **({"honor_labels": True} if self.honor else {}), **discovery}

    def in_kubernetes(self) -> Config:
        """A job of prometheus.yml that finds the pods by their labels and the name of their port."""
        return self.scrape(
            scrape_interval=INTERVAL,
            kubernetes_sd_configs=[{"role": "pod"}],
            relabel_configs=[*self._kept(), *(each.plain() for each in self.relabellings)],
        )

    def _kept(self) -> list[Config]:
        wanted = {_pod_label(name): value for name, value in self.selector.items()}
        wanted |= {f"{_META}pod_container_port_name": PORT_NAME}
        kept = [{"source_labels": [name], "regex": value, "action": "keep"} for name, value in wanted.items()]
        ended = {"source_labels": [f"{_META}pod_phase"], "regex": "Failed|Succeeded", "action": "drop"}
        return [*kept, ended]


def _pod_label(name: str) -> str:
    """How service discovery writes a pod's label."""
    return f"{_META}pod_label_" + "".join(letter if letter.isalnum() else "_" for letter in name)


_WHERE = (Relabelling("namespace", f"{_META}namespace"), Relabelling("pod", f"{_META}pod_name"))

RUNTIME = Target(
    job="wenxin-runtime",
    selector={LABEL_MANAGED_BY: MANAGED_BY, LABEL_COMPONENT: COMPONENT_RUNTIME},
    labels=(
        *_WHERE,
        Relabelling("deployment", _pod_label(LABEL_DEPLOYMENT)),
        Relabelling("revision", _pod_label(LABEL_REVISION)),
    ),
)
"""Model pods."""

OPERATOR = Target(
    job="wenxin-operator",
    selector={LABEL_APP: "wenxin-operator", LABEL_COMPONENT: "operator"},
    labels=_WHERE,
    honor=True,  # what it tells of a resource lies in the resource's namespace, not in its own
)
"""Copies of the operator."""

TARGETS = (RUNTIME, OPERATOR)


def scrape_config() -> Config:
    """What a plain Prometheus in the cluster needs."""
    return {"scrape_configs": [target.in_kubernetes() for target in TARGETS]}


def relabelings() -> Config:
    """What the chart's monitors read: selectors and relabelings by component."""
    return {
        name: {"selector": dict(target.selector), "relabelings": [each.monitor() for each in target.relabellings]}
        for name, target in (("runtime", RUNTIME), ("operator", OPERATOR))
    }


def fixed(*jobs: tuple[Target, Sequence[Config]]) -> list[Config]:
    """Jobs of prometheus.yml for targets that were made with `at`."""
    return [target.scrape(static_configs=list(configs)) for target, configs in jobs]
