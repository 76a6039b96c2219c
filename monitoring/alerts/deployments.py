"""What the operator knows of each deployment: does it answer, does it get on, has it room to grow."""

from monitoring.rules import Alert, Group

_CONDITION = "wenxin_operator_deployment_condition"
_PLACE = "namespace, deployment"
_WHO = "{{ $labels.namespace }}/{{ $labels.deployment }}"


def _condition(name: str, value: int, reasons: str = "") -> str:
    """Deployments whose condition has a value; several copies of the operator say the same."""
    return f'max by ({_PLACE}) ({_CONDITION}{{condition="{name}"{reasons}}}) == {value}'


def _replicas(state: str) -> str:
    return f'max by ({_PLACE}) (wenxin_operator_deployment_replicas{{state="{state}"}})'


_MOST = f"max by ({_PLACE}) (wenxin_operator_deployment_replicas_max)"
_FETCHED = 'wenxin_operator_model_download_bytes{state="done"}'
_QUEUE = f"sum by ({_PLACE}) (wenxin_queue_depth)"

GROUPS = (
    Group(
        "wenxin-deployments",
        (
            Alert(
                "WenxinNoReplicaAnswers",
                # Without weights there is nothing to answer with: WenxinModelNotReady says that.
                f"({_condition('Available', 0)}) and on ({_PLACE}) ({_replicas('wanted')} > 0)"
                f" and on ({_PLACE}) ({_condition('ModelReady', 1)})",
                "5m",
                "critical",
                f"{_WHO} answers no request",
                f"No replica of WenxinDeployment {_WHO} has been ready and in its Service for 5 minutes, though its"
                " weights are. Look at its condition Progressing and at its pods.",
            ),
            Alert(
                "WenxinReplicasMissing",
                f"{_replicas('ready')} < {_replicas('wanted')}",
                "30m",
                "warning",
                f"{_WHO} has fewer ready replicas than it should",
                f"WenxinDeployment {_WHO} has had fewer ready replicas than wanted for 30 minutes; now"
                " {{ $value }} are ready. A load takes minutes, not half an hour: look for pods that are Pending (no"
                " GPU, no memory) or restart.",
            ),
            Alert(
                "WenxinRolloutStuck",
                # Reasons that pass by themselves, or that another condition speaks of.
                _condition(
                    "Progressing", 0, ', reason!~"RolloutComplete|WaitingForModel|ScaledToZero|NotAccepted|Inspecting"'
                ),
                "10m",
                "warning",
                f"The rollout of {_WHO} is stuck",
                f"WenxinDeployment {_WHO} cannot roll out its newest spec; its condition Progressing says why. The"
                " replicas of the last good revision go on serving.",
            ),
            Alert(
                "WenxinSpecRefused",
                _condition("Accepted", 0),
                "15m",
                "warning",
                f"The spec of {_WHO} is not accepted",
                f"The spec of WenxinDeployment {_WHO} is invalid or does not fit; its condition Accepted says which"
                " field. The last accepted spec goes on being served.",
            ),
            Alert(
                "WenxinModelNotReady",
                # More in the last 10 minutes than ever in the 45 before: bytes that are fetched again are no progress.
                # The two windows are shorter than `for`, so that those of a former source do not count.
                '(max by (namespace, model) (wenxin_operator_model_condition{condition="Ready"}) == 0)'
                f" unless (max by (namespace, model) (max_over_time({_FETCHED}[10m]))"
                f" > max by (namespace, model) (max_over_time({_FETCHED}[45m] offset 10m)))",
                "1h",
                "warning",
                "The weights of {{ $labels.namespace }}/{{ $labels.model }} are not ready",
                "WenxinModel {{ $labels.namespace }}/{{ $labels.model }} has not been ready for an hour in which no"
                " download got on; its condition Ready says why.",
            ),
            Alert(
                "WenxinAutoscalerAtMax",
                f"({_replicas('wanted')} >= {_MOST}) and on ({_PLACE}) ({_QUEUE} > 0)",
                "30m",
                "warning",
                f"{_WHO} is at its most replicas and still has a queue",
                f"WenxinDeployment {_WHO} has run with maxReplicas ({{{{ $value }}}}) for 30 minutes while requests"
                " wait. Raise spec.autoscaling.maxReplicas, or expect waits and rejections.",
            ),
            Alert(
                "WenxinAutoscalerBlind",
                _condition("ScalingActive", 0, ', reason!~"ScaledToZero|WaitingForModel|NoReadyPods"'),
                "15m",
                "warning",
                f"{_WHO} is not scaled",
                f"The condition ScalingActive of WenxinDeployment {_WHO} has been False for 15 minutes: the autoscaler"
                " lacks metrics, or may not write. Its reason says which.",
            ),
            Alert(
                "WenxinAnswerCacheNotReady",
                _condition("CacheReady", 0, ', reason!="WaitingForPods"'),
                "15m",
                "warning",
                f"The answer cache of {_WHO} is not ready",
                f"The condition CacheReady of WenxinDeployment {_WHO} has been False for 15 minutes. Requests are"
                " answered without it.",
            ),
            Alert(
                "WenxinPodsNotScraped",
                f"({_replicas('ready')} > 0) unless on ({_PLACE}) count by ({_PLACE}) (wenxin_slots)",
                "10m",
                "warning",
                f"Prometheus sees no pod of {_WHO}",
                f"WenxinDeployment {_WHO} has {{{{ $value }}}} ready replicas, and no series of its pods. Every other"
                " alert about it is blind. Is there a PodMonitor, and may Prometheus' namespace reach port 8000?",
            ),
        ),
    ),
)
