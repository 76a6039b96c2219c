"""One node: its folders, its containerd, and the configuration of its kubelet, kube-proxy and pod network."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.harness import network, tools
from e2e.harness.cgroups import ControlGroup
from e2e.harness.components import ControlPlaneLayout
from e2e.harness.containerd import Containerd

NAMES = ("node1", "node2")


@dataclass(frozen=True)
class Node:
    """The node with a place in `NAMES`; both nodes share one host, one namespace and one bridge."""

    index: int
    layout: ControlPlaneLayout
    group: ControlGroup
    store: Path  # containerd's, outside the cluster's folder
    cni: Path

    @property
    def name(self) -> str:
        """Name of the Node object."""
        return NAMES[self.index]

    @property
    def address(self) -> str:
        """Its address on the bridge."""
        return network.NODE_ADDRESSES[self.index]

    @property
    def directory(self) -> Path:
        """Its part of the cluster's folder."""
        return self.layout.directory / self.name

    @property
    def containerd(self) -> Containerd:
        """Its container runtime."""
        return Containerd(self.directory, self.store, self.cni)

    def write_configuration(self) -> None:
        """Write what kubelet and CNI read; the certificates are written by the control plane's authority."""
        (self.directory / "net.d").mkdir(parents=True, exist_ok=True)
        (self.directory / "net.d" / "10-wenxin.conflist").write_text(json.dumps(self._pod_network()))
        (self.directory / "kubelet.json").write_text(json.dumps(self._kubelet()))

    def kubelet(self) -> list[str]:
        """The kubelet's command line."""
        return [
            str(tools.component("kubelet")),
            f"--config={self.directory / 'kubelet.json'}",
            f"--kubeconfig={self.layout.kubeconfig(self.name)}",
            f"--root-dir={self.directory / 'kubelet'}",
            f"--cert-dir={self.directory / 'kubelet' / 'pki'}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.address}",
            "--v=1",
        ]

    def _pod_network(self) -> dict[str, Any]:
        first, last = network.POD_ADDRESSES[self.index]
        addresses = {
            "type": "host-local",
            "dataDir": str(self.directory / "ipam"),
            "ranges": [
                [
                    {
                        "subnet": network.POD_RANGE,
                        "rangeStart": first,
                        "rangeEnd": last,
                        "gateway": network.NODE_ADDRESSES[0],
                    }
                ]
            ],
            "routes": [{"dst": "0.0.0.0/0"}],
        }  # fmt: skip - one range is one line
        bridge = {"type": "bridge", "bridge": network.BRIDGE, "hairpinMode": True, "ipam": addresses}
        ports = {"type": "portmap", "capabilities": {"portMappings": True}}
        return {"cniVersion": "1.0.0", "name": "wenxin", "plugins": [bridge, ports]}

    def _kubelet(self) -> dict[str, Any]:
        pki = self.layout.pki
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.group.name}/{self.name}",
            "containerRuntimeEndpoint": f"unix://{self.containerd.socket}",
            "failSwapOn": False,
            "address": self.address,
            "healthzPort": 10248 + self.index,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(pki / f"{self.name}-server.crt"),
            "tlsPrivateKeyFile": str(pki / f"{self.name}-server.key"),
            "clusterDNS": [network.NODE_ADDRESSES[0]],
            "clusterDomain": "cluster.local",
            "resolvConf": str(self.layout.directory / "resolv.conf"),
            # The images were put there by hand and can be pulled from nowhere, so they are never collected.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
                "nodefs.inodesFree": "1%",
            },
            "serializeImagePulls": False,
            "nodeStatusUpdateFrequency": "5s",
            "podLogsDir": str(self.directory / "podlogs"),
        }


def kube_proxy(layout: ControlPlaneLayout, *, masquerade: bool) -> list[str]:
    """The command line of the one kube-proxy, after writing its file: both nodes share the namespace's rules."""
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(layout.kubeconfig("proxy"))},
        "hostnameOverride": NAMES[0],
        "mode": "iptables",
        # Where bridged replies pass no iptables, they must come back through the node to be translated.
        "iptables": {"masqueradeAll": masquerade},
        "clusterCIDR": network.POD_RANGE,
        "bindAddress": layout.address,
        "nodePortAddresses": [network.POD_RANGE],
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
    path = layout.directory / "proxy.json"
    path.write_text(json.dumps(config))
    return [str(tools.component("kube-proxy")), f"--config={path}"]


def coredns(layout: ControlPlaneLayout) -> list[str]:
    """CoreDNS as a process on the node's address; names outside the cluster fail at once instead of timing out."""
    corefile = layout.directory / "Corefile"
    corefile.write_text(
        f"""cluster.local:53 in-addr.arpa:53 {{
  bind {layout.address}
  errors
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {layout.kubeconfig("admin")}
    ttl 1
  }}
}}
.:53 {{
  bind {layout.address}
  template ANY ANY {{
    rcode NXDOMAIN
  }}
}}
"""
    )
    return [str(tools.binary(tools.COREDNS)), f"-conf={corefile}"]
