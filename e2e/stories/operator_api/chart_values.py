"""Values under which the chart is rendered, judged and dry-run: each choice once, and each pair that could interact."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Choice:
    """One set of values.

    Attributes:
        flags: As Helm takes them.
        why: What could go wrong here and nowhere else.
    """

    flags: tuple[str, ...]
    why: str


NAMESPACED = ("--set=watchNamespaces={team-a,team-b}", "--set=metrics.provider=none")
BARE = "--set=rbac.create=false,serviceAccount.create=false,serviceAccount.name=mine,networkPolicy.enabled=false"
PLACED = (
    "--set=nodeSelector.e=f,tolerations[0].operator=Exists,priorityClassName=system-cluster-critical",
    '--set-json=affinity={"nodeAffinity":{}}',
    "--set=topologySpreadConstraints[0].maxSkew=1,topologySpreadConstraints[0].topologyKey=zone",
    "--set=topologySpreadConstraints[0].whenUnsatisfiable=ScheduleAnyway",
)

CHOICES = {
    "defaults": Choice((), "what most people install"),
    "namespaced": Choice(NAMESPACED, "Roles in place of ClusterRoles, for two namespaces"),
    "namespaced in its own namespace": Choice(
        ("--set=watchNamespaces={wenxin-system}", "--set=metrics.provider=none"), "both Roles in one namespace"
    ),
    "bare": Choice(
        (BARE, "--set=metrics.service=false,crds.upgrade=false,metrics.provider=none"), "every object that is optional"
    ),
    "bare, namespaced": Choice((*NAMESPACED, BARE), "a hook that has rights of its own all the same"),
    "copies": Choice(("--set=replicas=2",), "a budget and a spread that the chart chooses"),
    "copies, placed, namespaced": Choice(("--set=replicas=3", *PLACED, *NAMESPACED), "a spread that the user chooses"),
    "none": Choice(("--set=replicas=0",), "paused: no budget"),
    "placed": Choice(PLACED, "hooks that follow"),
    "mirror": Choice(
        (
            "--set=image.repository=registry.example:5000/wenxin/operator,image.tag=,image.pullPolicy=Always",
            "--set=imagePullSecrets={one,two},runtimeImagePullSecrets={three},runtimeImagePullPolicy=Never",
        ),
        "secrets in every pod; the tag that the chart's version is",
    ),
    "dressed": Choice(
        (
            "--set=podLabels.a=b,podAnnotations.c=d,serviceAccount.annotations.g=h,log.level=debug,httpPort=9090",
            "--set-json=resources={}",
        ),
        "maps that are empty by default, and one that is empty here",
    ),
    "no user roles, no policy": Choice(
        ("--set=rbac.userRoles=false,networkPolicy.enabled=false",), "hooks without a policy"
    ),
    "adapter": Choice(("--set=metrics.provider=prometheus-adapter",), "rules for somebody else's server"),
    "keda": Choice(
        ("--set=metrics.provider=keda,metrics.prometheusAddress=http://prometheus.monitoring.svc:9090",),
        "nothing of custom.metrics.k8s.io",
    ),
}
