"""A replica of several pods as one StatefulSet, where the cluster has no LeaderWorkerSets."""

from wenxin_operator import names
from wenxin_operator.names import (
    COMPONENT_RUNTIME,
    LABEL_DEPLOYMENT,
    LABEL_GROUP,
    LABEL_POD_INDEX,
    LABEL_REVISION,
    SERVICE,
    STATEFUL_SET,
    Raw,
    pod_selector,
)
from wenxin_operator.plan.flags import PORT
from wenxin_operator.plan.manifest import Owner
from wenxin_operator.plan.workload import Membership, remembered, revision_of
from wenxin_operator.rollout import Course


def membership(owner: Owner) -> Membership:
    """A pod's labels say its group and its number; the first pod's host name follows from them.

    The name is looked up in the search path of the cluster, whatever its domain is.
    """
    service, namespace = names.headless_service(owner.key.name), owner.key.namespace
    env = (
        _from_label("GROUP", LABEL_GROUP),
        _from_label("NODE_RANK", LABEL_POD_INDEX),
        {"name": "MASTER_ADDR", "value": f"$(GROUP)-0.{service}.{namespace}.svc"},
    )
    return Membership(env, "$(NODE_RANK)", "$(MASTER_ADDR)", LABEL_GROUP)


def stateful_set(owner: Owner, template: Raw, nodes: int, name: str, course: Course) -> Raw:
    """One group.

    Args:
        owner: The WenxinDeployment.
        template: Its pods.
        nodes: How many.
        name: The group's.
        course: How it takes the place of others.
    """
    metadata, own = template["metadata"], {LABEL_GROUP: name}
    identity = {LABEL_DEPLOYMENT: owner.key.name, LABEL_REVISION: revision_of(template)} | own
    return owner.child(
        STATEFUL_SET,
        name,
        COMPONENT_RUNTIME,
        labels=identity,
        annotations=remembered(course),
        spec={
            "replicas": nodes,
            "serviceName": names.headless_service(owner.key.name),
            # Each waits for all: one after the other, the first would never be ready.
            "podManagementPolicy": "Parallel",
            # A group is never changed, so an edit of it must not reach its pods before it is put right.
            "updateStrategy": {"type": "OnDelete"},
            "selector": {"matchLabels": identity},
            "template": {**template, "metadata": {**metadata, "labels": {**metadata["labels"], **own}}},
        },
    )


def headless_service(owner: Owner) -> Raw:
    """A host name for each pod of all groups, before it is ready too: it becomes so when it has found the others."""
    return owner.child(
        SERVICE,
        names.headless_service(owner.key.name),
        COMPONENT_RUNTIME,
        spec={
            "type": "ClusterIP",
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": pod_selector(owner.key.name),
            "ports": [{"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    )


def _from_label(variable: str, label: str) -> Raw:
    return {"name": variable, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{label}']"}}}
