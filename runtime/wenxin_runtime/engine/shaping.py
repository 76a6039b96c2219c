"""What a request does to its logits before the choice: penalties, bias, bans and constraints, all rows at once.

Everything is gathered on the host as flat lists of places and values, so a batch costs a few operations on the device
however many requests ask for something, and nothing waits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wenxin_runtime.engine.constraint import Constraint
from wenxin_runtime.engine.seen import Seen
from wenxin_runtime.engine.transfer import to_device
from wenxin_runtime.ipc import SamplingParams

_BITS = 32


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence that gets its next token.

    Attributes:
        params: What its request asked for.
        seed: The request's seed, or one that the engine drew for it.
        generated: Tokens of the answer so far: the position of the next one.
        ending_ids: EOS and stop tokens, banned while the answer is shorter than `params.min_tokens`.
        seen: Its tokens so far, where penalties go by them.
        constraint: What the answer is bound to.
    """

    params: SamplingParams
    seed: int
    generated: int = 0
    ending_ids: Sequence[int] = ()
    seen: Seen | None = None
    constraint: Constraint | None = None


def shape(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Return the logits [rows, vocabulary], float32, as the choice is to see them; the input where nothing changes."""
    shaped = logits
    for change in (_penalise_, _add_, _forbid_):
        shaped = change(shaped, rows, logits)
    return shaped


def _penalise_(shaped: Tensor, rows: Sequence[Row], given: Tensor) -> Tensor:
    """Apply the penalties.

    The repetition penalty counts the prompt too (Keskar et al. 2019), presence and frequency only the answer.
    """
    counted = [(i, row.params, row.seen) for i, row in enumerate(rows) if row.seen is not None and row.seen.ids]
    if not counted:
        return shaped
    sizes = [len(seen.ids) for _, _, seen in counted]
    places = np.concatenate([i * given.shape[1] + np.frombuffer(seen.ids, np.int64) for i, _, seen in counted])
    times = np.concatenate([np.frombuffer(seen.times, np.float32) for _, _, seen in counted])
    presence, frequency, repetition = (
        np.repeat(np.array([getattr(params, name) for _, params, _ in counted], np.float32), sizes)
        for name in ("presence_penalty", "frequency_penalty", "repetition_penalty")
    )
    values = np.stack((repetition, np.where(times > 0, presence + frequency * times, 0)))
    there = to_device(places, torch.int64, given.device)
    divisor, less = to_device(values, torch.float32, given.device)
    shaped = _own(shaped, given)
    held = shaped.view(-1)[there]
    shaped.view(-1)[there] = torch.where(held > 0, held / divisor, held * divisor) - less
    return shaped


def _add_(shaped: Tensor, rows: Sequence[Row], given: Tensor) -> Tensor:
    """Add each row's logit bias, and ban the tokens that would end it too soon."""
    added = {i * given.shape[1] + token: bias for i, row in enumerate(rows) for token, bias in _biases(row)}
    if not added:
        return shaped
    shaped = _own(shaped, given)
    places = to_device(list(added), torch.int64, given.device)
    shaped.view(-1)[places] += to_device(list(added.values()), torch.float32, given.device)
    return shaped


def _biases(row: Row) -> Iterator[tuple[int, float]]:
    yield from row.params.logit_bias.items()
    if row.generated < row.params.min_tokens:
        for token in row.ending_ids:
            yield token, -np.inf


def _forbid_(shaped: Tensor, rows: Sequence[Row], given: Tensor) -> Tensor:
    """Leave each constrained row the tokens of its bitmask."""
    bound = [(i, row.constraint) for i, row in enumerate(rows) if row.constraint is not None]
    if not bound:
        return shaped
    vocabulary = given.shape[1]
    bits = np.empty((len(bound), -(-vocabulary // _BITS)), np.int32)
    filled = [constraint.fill(mask) for (_, constraint), mask in zip(bound, bits, strict=True)]
    if not any(filled):
        return shaped
    allowed = _unpacked(bits[np.array(filled)], vocabulary, given.device)
    if all(filled) and len(bound) == len(rows):
        return torch.where(allowed, shaped, -torch.inf)
    picked = to_device([i for (i, _), used in zip(bound, filled, strict=True) if used], torch.int64, given.device)
    shaped = _own(shaped, given)
    shaped[picked] = torch.where(allowed, shaped[picked], -torch.inf)
    return shaped


def _unpacked(bits: NDArray[np.int32], vocabulary: int, device: torch.device) -> Tensor:
    """Spread bits [rows, words] to bool [rows, vocabulary] on the device."""
    if device.type != "cpu":
        return spread(to_device(bits, torch.int32, device), vocabulary)  # the bits travel, an eighth of the bytes
    return torch.from_numpy(np.unpackbits(bits.view(np.uint8), axis=1, count=vocabulary, bitorder="little")).view(
        torch.bool
    )


def spread(words: Tensor, vocabulary: int) -> Tensor:
    """Spread int32 words [rows, words] to bool [rows, vocabulary], where they are."""
    shifted = words[:, :, None] >> torch.arange(_BITS, dtype=torch.int32, device=words.device)
    return (shifted & 1).flatten(1)[:, :vocabulary].bool()


def _own(shaped: Tensor, given: Tensor) -> Tensor:
    """Copy before the first change: the logprobs describe what the model gave."""
    return shaped.clone() if shaped is given else shaped
