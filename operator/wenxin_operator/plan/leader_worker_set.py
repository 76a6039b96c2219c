"""Replicas of several pods as a LeaderWorkerSet, where the cluster has them: its controller makes and rolls the groups.

https://lws.sigs.k8s.io
"""

from wenxin_operator import names
from wenxin_operator.names import COMPONENT_RUNTIME, LABEL_GROUP_INDEX, LEADER_WORKER_SET, Raw
from wenxin_operator.plan.manifest import Owner
from wenxin_operator.plan.workload import Membership
from wenxin_operator.rollout import Course
from wenxin_operator.target import Target

MEMBERSHIP = Membership((), "$(LWS_WORKER_INDEX)", "$(LWS_LEADER_ADDRESS)", LABEL_GROUP_INDEX)
"""Its admission webhook puts both variables before all others into every container."""


def leader_worker_set(owner: Owner, target: Target, template: Raw, course: Course) -> Raw:
    """All groups. Leaders and workers are the same pods: each finds out which it is.

    Args:
        owner: The WenxinDeployment.
        target: What the pods follow.
        template: The pods.
        course: How they take the place of others.
    """
    spec = target.spec
    return owner.child(
        LEADER_WORKER_SET,
        names.leader_worker_set(owner.key.name),
        COMPONENT_RUNTIME,
        spec={
            "replicas": spec.replicas,
            # Workers and leader wait for each other.
            "startupPolicy": "LeaderCreated",
            "leaderWorkerTemplate": {
                "size": spec.parallelism.nodes,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "workerTemplate": template,
            },
            "rolloutStrategy": {"type": "RollingUpdate", "rollingUpdateConfiguration": course.pace.rolling_update()},
        },
    )
