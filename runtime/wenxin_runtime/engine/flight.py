"""What the device has computed, or is computing, and the host does not know yet."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from wenxin_runtime.engine.request import Prompt, Request
from wenxin_runtime.engine.sampler import Described, Drawn


@dataclass(frozen=True, slots=True)
class PromptScores:
    """Logprobs of some of a prompt's tokens."""

    prompt: Prompt
    described: Described

    def land(self) -> None:
        """Wait for them and add them to those that are known."""
        self.prompt.logprobs += self.described.read()


@dataclass(frozen=True, slots=True)
class Flight:
    """What one step has brought.

    Attributes:
        requests: Those whose next token is sampled; some may have ended meanwhile.
        drawn: Their tokens, in the same order.
        scores: Logprobs of prompts.
    """

    requests: tuple[Request, ...]
    drawn: Drawn
    scores: tuple[PromptScores, ...]

    @property
    def places(self) -> Mapping[Request, int]:
        """Each request's place among the tokens."""
        return {request: place for place, request in enumerate(self.requests)}


NOTHING = Flight((), Drawn(torch.empty(0, dtype=torch.int64)), ())
"""Nothing is on its way."""
