"""spec.autoscaling: how many replicas there are, by how much work waits for each of them."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from wenxin_operator.api.fields import Part, rule

_RANGE = "autoscaling.minReplicas must be at most autoscaling.maxReplicas"

Policies = Annotated[tuple["Policy", ...], Field(min_length=1, max_length=8)]
Window = Annotated[int, Field(ge=0, le=3600)]
Select = Literal["Max", "Min", "Disabled"]


class Policy(Part):
    """One bound on how fast the count changes."""

    type: Literal["Pods", "Percent"]
    """Whether `value` is replicas or a percentage of them. A group of pods counts as one."""
    value: int = Field(ge=1, le=100_000)
    """By how much the count may change within `periodSeconds`."""
    period_seconds: int = Field(ge=1, le=1800)
    """The length of time that `value` is for."""


class ScaleUp(Part):
    """How the count grows."""

    stabilization_window_seconds: Window = 0
    """Grow to no more than what was wanted at every moment of so many last seconds."""
    select_policy: Select = "Max"
    """Which policy holds where several would allow different counts; Disabled never grows."""
    policies: Policies = (Policy(type="Pods", value=2, period_seconds=60),)
    """How fast. The default makes two replicas a minute: a replica that loads takes nothing off the queue yet, and
    without a bound the queue would be answered by as many as are allowed."""


class ScaleDown(Part):
    """How the count shrinks."""

    stabilization_window_seconds: Window = 300
    """Shrink to no less than what was wanted at any moment of so many last seconds."""
    select_policy: Select = "Max"
    """Which policy holds where several would allow different counts; Disabled never shrinks."""
    policies: Policies = (Policy(type="Pods", value=1, period_seconds=120),)
    """How fast. The default takes one replica in two minutes: loading it anew costs minutes, too."""


class Behavior(Part):
    """How fast the count follows the load, as a HorizontalPodAutoscaler has it (autoscaling/v2)."""

    scale_up: ScaleUp = ScaleUp()
    """How the count grows."""
    scale_down: ScaleDown = ScaleDown()
    """How the count shrinks."""


class Autoscaling(Part):
    """Lets an autoscaler set the count of replicas. What `queueDepth` and `runningPercent` ask for, the larger wins."""

    model_config = ConfigDict(json_schema_extra=rule("self.minReplicas <= self.maxReplicas", _RANGE))

    min_replicas: int = Field(default=1, ge=1, le=1000)
    """Least replicas. There is no zero: nothing would keep a request that comes meanwhile."""
    max_replicas: int = Field(ge=1, le=1000)
    """Most replicas."""
    queue_depth: int = Field(default=5, ge=1, le=100_000)
    """Requests that may wait in each replica on average; with more, there should be more replicas. A request for
    several choices counts once for each."""
    running_percent: int = Field(default=80, ge=1, le=90)
    """How many of engine.maxNumSeqs may be computed in each replica on average, in percent; it asks for replicas
    before anybody waits. At most 90: autoscalers overlook a difference of a tenth, and more than all can not run."""
    behavior: Behavior = Behavior()
    """How fast the count follows."""

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(_RANGE)
        return self
