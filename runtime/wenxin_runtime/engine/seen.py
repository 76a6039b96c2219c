"""How often each token stands in a sequence: what penalties go by, kept up token by token."""

from array import array
from collections.abc import Iterable

from wenxin_runtime.ipc import SamplingParams


class Seen:
    """The distinct tokens of a prompt and its answer.

    Attributes:
        ids: Each token once, int64, in the order of appearance.
        times: How often it stands in the answer, float32; 0 for one that only the prompt has.
    """

    def __init__(self, prompt_ids: Iterable[int]) -> None:
        self.ids = array("q", dict.fromkeys(prompt_ids))
        self.times = array("f", bytes(4 * len(self.ids)))
        self._place = {token_id: place for place, token_id in enumerate(self.ids)}

    def add(self, token_id: int) -> None:
        """Count a token of the answer."""
        place = self._place.setdefault(token_id, len(self.ids))
        if place == len(self.ids):
            self.ids.append(token_id)
            self.times.append(0.0)
        self.times[place] += 1


def penalised(params: SamplingParams) -> bool:
    """Say whether tokens that were written change the odds of the next one."""
    return params.presence_penalty != 0 or params.frequency_penalty != 0 or params.repetition_penalty != 1
