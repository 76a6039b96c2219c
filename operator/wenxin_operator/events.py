"""What the operator tells people through `kubectl describe`: one event per change, never one per pass."""

from dataclasses import dataclass
from typing import Literal

from wenxin_operator.names import Key


@dataclass(frozen=True, slots=True)
class Event:
    """One events.k8s.io/v1 event.

    Attributes:
        uid: Of the resource, so that `kubectl describe` finds the event.
        reason: CamelCase, as the condition's.
        note: One sentence, at most 1 KiB.
    """

    regarding: Key
    uid: str
    type: Literal["Normal", "Warning"]
    reason: str
    note: str
