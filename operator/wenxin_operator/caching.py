"""The condition CacheReady: whether the pods reach the Redis that keeps their answers. Pure."""

from wenxin_operator.api.answer_cache import AnswerCache
from wenxin_operator.conditions import Finding, finding
from wenxin_operator.observe import DeploymentSnapshot
from wenxin_operator.plan.answer_cache import is_ready
from wenxin_operator.plan.deployment import DeploymentPlan

CACHE_READY = "CacheReady"
_MEANWHILE = "every answer is generated meanwhile"


def ready(seen: DeploymentSnapshot, plan: DeploymentPlan) -> Finding | None:
    """Whether repeated prompts are answered from Redis; None where nobody asked for it.

    Args:
        seen: What there is.
        plan: What should exist.
    """
    spec = plan.decision.spec
    if spec is None or spec.answer_cache is None:
        return None
    if not_there := _missing(seen, spec.answer_cache):
        return not_there
    without = sorted(name for name, said in seen.caches.items() if said == "down")
    if without:
        many = f"{len(without)} of {len(seen.caches)} pods, such as {without[0]}, get no answer from Redis"
        return finding(CACHE_READY, "RedisUnreachable", f"{many}; {_MEANWHILE}")
    if not seen.caches:
        return finding(CACHE_READY, "WaitingForPods", "no pod that serves has said yet whether Redis answers it")
    return Finding(CACHE_READY, holds=True, reason="Answering", message="Redis answers every pod that was asked")


def _missing(seen: DeploymentSnapshot, cache: AnswerCache) -> Finding | None:
    """Why a managed Redis is not there."""
    if cache.redis.managed is None or is_ready(seen):
        return None
    problem = next((pod.problem for pod in seen.redis if pod.problem), None)
    if problem:
        return finding(CACHE_READY, problem.reason, f"Redis: {problem.message}; {_MEANWHILE}")
    return finding(CACHE_READY, "RedisStarting", f"Redis is not ready yet; {_MEANWHILE}")
