"""spec.rollout: how a new version takes the place of the old one."""

from typing import Annotated, Literal

from pydantic import Field

from wenxin_operator.api.fields import DurationUpTo, Part

AtOnce = Annotated[int, Field(ge=1, le=100)]


class Rollout(Part):
    """How a new version takes the place of the old one; see docs/rollouts.md."""

    strategy: Literal["Auto", "Surge", "Replace"] = "Auto"
    """Surge: a new replica is ready before an old one goes, and waits for room as long as it takes. Replace: an old one
    goes first, and a new one takes its room, which with one replica is a gap in service. Auto surges, and goes on with
    Replace where the cluster has no room for one more; the condition Progressing says so and why."""
    max_surge: AtOnce = 1
    """How many replicas more than wanted there may be while it surges."""
    max_unavailable: AtOnce = 1
    """How many of those wanted may be missing for the rollout's sake while it replaces."""
    surge_timeout: Annotated[str, DurationUpTo("24h")] = "30s"
    """How long, with Auto, a replica waits for room before an old one goes for it. Where an autoscaler brings nodes,
    give it the time that takes."""
