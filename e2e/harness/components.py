"""The control plane's command lines, shared by the whole cluster and the control plane alone. Starts nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.harness import paths, pki, tools

SERVICE_RANGE = "10.96.0.0/16"
SERVICE_OF_API = "10.96.0.1"  # the first address of the range is the Service `kubernetes`


@dataclass(frozen=True)
class ControlPlaneLayout:
    """Where a control plane keeps its files and listens."""

    directory: Path
    address: str = "127.0.0.1"
    port: int = 6443
    etcd_port: int = 2379
    etcd_peer_port: int = 2380

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.directory / "pki"

    @property
    def server(self) -> str:
        """URL of the API server."""
        return f"https://{self.address}:{self.port}"

    def kubeconfig(self, user: str) -> Path:
        """The kubeconfig of one user."""
        return self.directory / f"{user}.kubeconfig"

    def log(self, name: str) -> Path:
        """The log of one process."""
        return self.directory / "log" / f"{name}.log"


def write_credentials(layout: ControlPlaneLayout, context: str) -> pki.Authority:
    """Write every certificate and kubeconfig of the control plane; returns the authority for those of the nodes."""
    authority = pki.Authority.create(layout.pki, "ca")
    front = pki.Authority.create(layout.pki, "front")
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
    hosts = [*names, "localhost", "127.0.0.1", layout.address, SERVICE_OF_API]
    authority.issue("apiserver", "kube-apiserver", usage="server", hosts=hosts)
    authority.issue("apiserver-kubelet", "kube-apiserver-kubelet-client", group="system:masters")
    front.issue("front-client", "front-proxy-client")
    pki.write_signing_key(layout.pki, "sa")
    for user, name, group in (
        ("admin", "admin", "system:masters"),
        ("controllers", "system:kube-controller-manager", ""),
        ("scheduler", "system:kube-scheduler", ""),
    ):
        authority.issue(user, name, group=group)
        write_kubeconfig(layout, authority, user, context)
    return authority


def write_kubeconfig(layout: ControlPlaneLayout, authority: pki.Authority, user: str, context: str) -> None:
    """Write USER.kubeconfig."""
    path = layout.kubeconfig(user)
    pki.write_kubeconfig(path, server=layout.server, authority=authority, user=user, context=context)


def etcd(layout: ControlPlaneLayout) -> list[str]:
    """A store for minutes: it never waits for the disk."""
    client, peer = f"http://127.0.0.1:{layout.etcd_port}", f"http://127.0.0.1:{layout.etcd_peer_port}"
    return [
        str(tools.component("etcd")),
        f"--data-dir={layout.directory / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def apiserver(layout: ControlPlaneLayout, extra: Sequence[str] = ()) -> list[str]:
    """The API server with RBAC and node authorization, and aggregation to addresses (not only to Service addresses)."""
    pki = layout.pki
    return [
        str(tools.component("kube-apiserver")),
        f"--etcd-servers=http://127.0.0.1:{layout.etcd_port}",
        f"--bind-address={layout.address}",
        f"--advertise-address={layout.address}",
        f"--secure-port={layout.port}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--service-account-key-file={pki / 'sa.pub'}",
        f"--service-account-signing-key-file={pki / 'sa.key'}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--anonymous-auth=false",
        "--allow-privileged=true",
        "--profiling=false",
        f"--kubelet-client-certificate={pki / 'apiserver-kubelet.crt'}",
        f"--kubelet-client-key={pki / 'apiserver-kubelet.key'}",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--requestheader-client-ca-file={pki / 'front.crt'}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={pki / 'front-client.crt'}",
        f"--proxy-client-key-file={pki / 'front-client.key'}",
        "--enable-aggregator-routing=true",
        *extra,
    ]


def controller_manager(layout: ControlPlaneLayout, controllers: Sequence[str] = ("*",)) -> list[str]:
    """The controllers, with an autoscaler that looks every 2 s and shrinks after 10 s so that tests need not wait."""
    config = layout.kubeconfig("controllers")
    return [
        str(tools.component("kube-controller-manager")),
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--bind-address=127.0.0.1",
        "--secure-port=0" if "*" not in controllers else "--secure-port=10257",
        f"--controllers={','.join(controllers)}",
        f"--service-account-private-key-file={layout.pki / 'sa.key'}",
        f"--root-ca-file={layout.pki / 'ca.crt'}",
        f"--cluster-signing-cert-file={layout.pki / 'ca.crt'}",
        f"--cluster-signing-key-file={layout.pki / 'ca.key'}",
        "--use-service-account-credentials",
        "--leader-elect=false",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--allocate-node-cidrs=false",
        "--horizontal-pod-autoscaler-sync-period=2s",
        "--horizontal-pod-autoscaler-downscale-stabilization=10s",
        "--horizontal-pod-autoscaler-initial-readiness-delay=2s",
        "--horizontal-pod-autoscaler-cpu-initialization-period=5s",
        "--node-monitor-grace-period=20s",
    ]


def scheduler(layout: ControlPlaneLayout, *extra: str) -> list[str]:
    """The default scheduler."""
    config = layout.kubeconfig("scheduler")
    return [
        str(tools.component("kube-scheduler")),
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        *extra,
    ]


IN_A_HURRY = ("--kube-api-qps=2000", "--kube-api-burst=4000")
"""For the controller manager and the scheduler of a control plane that thousands of pods go through."""


def kwok(layout: ControlPlaneLayout) -> list[str]:
    """Pretends to be the kubelet of every node: pods are ready as soon as they are scheduled, and go when deleted."""
    return [
        str(tools.binary(tools.KWOK)),
        f"--kubeconfig={layout.kubeconfig('admin')}",
        f"--config={paths.REPOSITORY / 'e2e' / 'cluster' / 'kwok.yaml'}",
        "--manage-all-nodes=true",
        "--cidr=10.240.0.1/12",
    ]
