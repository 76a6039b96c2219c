"""Service discovery of pods as Prometheus does it, for one that was built without Kubernetes, as Debian's is.

One target for each port of each container, with the labels that `role: pod` gives:
https://prometheus.io/docs/prometheus/latest/configuration/configuration/#kubernetes_sd_config
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from e2e.harness.cluster import Object

_META = "__meta_kubernetes_"


def discovered(pods: Iterable[Object]) -> list[dict[str, Any]]:
    """What Prometheus would find, as a file for `file_sd_configs` says it. Pods without an address are left out."""
    return [target for pod in pods if pod["status"].get("podIP") for target in _targets(pod)]


def _targets(pod: Object) -> Iterator[dict[str, Any]]:
    metadata, address = pod["metadata"], pod["status"]["podIP"]
    about = {
        f"{_META}namespace": metadata["namespace"],
        f"{_META}pod_name": metadata["name"],
        f"{_META}pod_phase": pod["status"]["phase"],
        **{f"{_META}pod_label_{_written(name)}": value for name, value in metadata.get("labels", {}).items()},
    }
    for container in pod["spec"]["containers"]:
        for port in container.get("ports", ()):
            labels = {
                f"{_META}pod_container_name": container["name"],
                f"{_META}pod_container_port_name": port.get("name", ""),
            }
            yield {"targets": [f"{address}:{port['containerPort']}"], "labels": about | labels}


def _written(label: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", label)
