"""A real Kubernetes for tests and the demo, on a machine with or without Docker.

`python -m e2e.harness --help` is the front door. The flow, and the module that owns each step:

    prerequisites   what the host must have, and how to install what it lacks
    tools           Kubernetes, etcd, Helm and CoreDNS, built once from pinned Go sources
    images          the project's images as OCI archives, made without Docker
    local           up and down of the cluster in a network namespace of its own
    kind, existing  the same protocol (`cluster.Cluster`) on kind, or on a cluster you already have
    control_plane   only etcd and the API server on loopback ports, for tests of the operator
"""
