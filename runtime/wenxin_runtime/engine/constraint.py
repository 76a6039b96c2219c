"""What an answer is bound to, token by token: the seam between the engine and grammars, word lists and the like."""

from concurrent.futures import Future
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wenxin_runtime.ipc import Submit

Bitmask: TypeAlias = NDArray[np.int32]
"""One bit per token id, [ceil(vocabulary / 32)]: bit i % 32 of word i // 32 says whether token i may come next."""


class Constraint(Protocol):
    """The tokens that one sequence may write. It belongs to that sequence alone and outlives a preemption."""

    @property
    def finished(self) -> bool:
        """Whether nothing may follow: the answer ends with "stop", without an EOS token."""

    @property
    def problem(self) -> str | None:
        """Why the last mask allowed nothing, for the client, where it did not."""

    def fill(self, bitmask: Bitmask) -> bool:
        """Write down what may come next, into all words of `bitmask`; False where everything may."""

    def advance(self, token_id: int) -> None:
        """Take note of the token that was chosen."""


class Unsatisfiable(ValueError):
    """No answer can fulfil what was asked for; the text is for the client."""


class Constrain(Protocol):
    """Makes the constraints of sequences."""

    def __call__(self, message: Submit) -> Constraint | None:
        """Bind one sequence of a request; None where there is nothing to be bound to.

        Raises:
            Unsatisfiable: nothing can fulfil what was asked for.
        """

    def compiling(self, message: Submit) -> Future[None] | None:
        """Begin what is too slow for the engine's loop; None where the call above would not wait for anything."""


class Unconstrained:
    """Lets every sequence write what it likes."""

    def __call__(self, message: Submit) -> None:
        """Bind nothing."""

    def compiling(self, message: Submit) -> None:
        """Wait for nothing."""
