"""From logits to tokens: one reproducible draw per sequence, and log probabilities, on the device of the logits.

The order is vLLM's: penalties, bias, bans and constraints (`shaping`), then temperature, min_p, top_k, top_p, then the
draw. Log probabilities describe the distribution before all of that. A draw depends on the sequence's own seed and
position alone, so an answer repeats whatever else runs in the batch. On a GPU nothing here waits but `Drawn.read`.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wenxin_runtime.engine.shaping import Row, shape
from wenxin_runtime.engine.transfer import Readback, to_device
from wenxin_runtime.ipc import TokenLogprobs

_GREEDY_BELOW = 1e-5
# Best tokens looked at first, and next, on a CPU: sorting a vocabulary of 100,000 takes as long as a step of the model.
_CANDIDATES = (256, 4096)


@dataclass(frozen=True, slots=True)
class Sampled:
    """The next token of one sequence; `token_id` is None where the logits were not finite."""

    token_id: int | None
    logprobs: TokenLogprobs | None = None


class Described:
    """The log probability and rank of chosen tokens, and the best alternatives, on their way to the host."""

    def __init__(self, logprobs: Tensor, token_ids: Tensor, top: int) -> None:
        own = logprobs.gather(1, token_ids[:, None])
        ranks = (logprobs > own).sum(dim=-1) + 1
        values, indices = logprobs.topk(top, dim=-1)
        self._readback = Readback(own[:, 0], ranks, indices, values)

    def read(self) -> list[TokenLogprobs]:
        """Wait for them; one entry per row."""
        own, ranks, indices, values = (tensor.tolist() for tensor in self._readback.get())
        return [
            TokenLogprobs(logprob, rank, tuple(zip(ids, best, strict=True)))
            for logprob, rank, ids, best in zip(own, ranks, indices, values, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Drawn:
    """The next tokens, on the device and on their way to the host.

    Attributes:
        token_ids: int64 [rows]; -1 where the logits were not finite.
        described: The logprobs of the rows that want some.
        tops: How many alternatives each of these rows wants, by row.
    """

    token_ids: Tensor
    described: Described | None = None
    tops: Mapping[int, int] = field(default_factory=dict)
    _readback: Readback = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_readback", Readback(self.token_ids))

    def read(self) -> list[Sampled]:
        """Wait for them: the one place where the host waits for the device."""
        (token_ids,) = self._readback.get()
        entries = self.described.read() if self.described is not None else []
        logprobs = {
            row: TokenLogprobs(entry.logprob, entry.rank, entry.top[:top])
            for (row, top), entry in zip(self.tops.items(), entries, strict=True)
        }
        return [
            Sampled(token_id, logprobs.get(row)) if token_id >= 0 else Sampled(None)
            for row, token_id in enumerate(token_ids.tolist())
        ]


@torch.inference_mode()
def sample(logits: Tensor, rows: Sequence[Row]) -> Drawn:
    """Choose the next token of every row.

    Args:
        logits: [rows, vocabulary], any float dtype; not changed.
        rows: One per row of `logits`.
    """
    if not rows:
        return Drawn(torch.empty(0, dtype=torch.int64, device=logits.device))
    logits = logits.float()
    shaped = shape(logits, rows)
    best, chosen = shaped.max(dim=-1)  # max propagates NaN, so one look at `best` judges the whole row
    for kind in _KINDS:
        drawing = [i for i, row in enumerate(rows) if _kind(row) == kind]
        if drawing:
            picked = to_device(drawing, torch.int64, logits.device)
            whole = len(drawing) == len(rows)
            tokens = _draw(shaped if whole else shaped[picked], [rows[i] for i in drawing], kind)
            chosen = tokens if whole else chosen.index_copy(0, picked, tokens)
    described, tops = _describe_rows(logits, chosen, rows)
    return Drawn(chosen.where(best.isfinite(), -1), described, tops)


def describe(logits: Tensor, token_ids: Tensor, top: int) -> Described:
    """Give the log probability and rank of `token_ids` and the `top` most likely alternatives.

    Args:
        logits: [positions, vocabulary] as the model gave them.
        token_ids: [positions], int64.
        top: How many alternatives.
    """
    return Described(logits.float().log_softmax(dim=-1), token_ids, top)


def uniform(seed: int, position: int) -> float:
    """Return the number in [0, 1) of (seed, position): a hash, so equal on every host and in every batch."""
    digest = hashlib.blake2b(struct.pack("<Qq", seed % 2**64, position), digest_size=8).digest()
    return float(int.from_bytes(digest, "little") >> 11) * 2.0**-53


_PLAIN, _BOUNDED, _UNBOUNDED = _KINDS = ("plain", "bounded", "unbounded")
"""How a row is drawn: from the vocabulary in its own order, from the best `top_k`, or from as many as filters leave.

Kinds are drawn apart: the order of the tokens is part of the draw, and only an unbounded row may need a full sort.
"""


def _kind(row: Row) -> str:
    params = row.params
    if params.temperature < _GREEDY_BELOW:
        return "greedy"
    if params.top_k > 0:
        return _BOUNDED
    return _UNBOUNDED if params.top_p < 1 or params.min_p > 0 else _PLAIN


def _describe_rows(logits: Tensor, chosen: Tensor, rows: Sequence[Row]) -> tuple[Described | None, dict[int, int]]:
    tops = {i: row.params.logprobs for i, row in enumerate(rows) if row.params.logprobs is not None}
    if not tops:
        return None, {}
    picked = to_device(list(tops), torch.int64, logits.device)
    return describe(logits[picked], chosen[picked], max(tops.values())), tops


def _draw(logits: Tensor, rows: Sequence[Row], kind: str) -> Tensor:
    """Draw one token per row by inverting the cumulative distribution at the row's own uniform number."""
    columns = [
        (uniform(row.seed, row.generated), row.params.temperature, row.params.min_p, row.params.top_k, row.params.top_p)
        for row in rows
    ]
    points, *filters = to_device(columns, torch.float64, logits.device)[:, :, None].unbind(1)
    temperature, min_p, top_k, top_p = (column.float() for column in filters)
    logits = logits / temperature
    order: Tensor | None = None
    if kind != _PLAIN:
        most = max(row.params.top_k for row in rows)
        logits, order = _filtered(logits, min_p, top_k, top_p, most if kind == _BOUNDED else None)
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    # Scaling by the last value makes up for a sum that is not exactly 1; right=True never picks a token of mass 0.
    place = torch.searchsorted(cumulative, points * cumulative[:, -1:], right=True).clamp_(max=logits.shape[-1] - 1)
    return (place if order is None else order.gather(1, place))[:, 0]


def _filtered(logits: Tensor, min_p: Tensor, top_k: Tensor, top_p: Tensor, most: int | None) -> tuple[Tensor, Tensor]:
    """Keep what min_p, top_k and top_p allow, in this order; the most likely token always stays.

    Args:
        logits: [rows, vocabulary].
        min_p: [rows, 1], as the others.
        top_k: Above 0 in all rows, or 0 in all.
        top_p: Mass to keep.
        most: The largest top_k, where there is one.

    Returns:
        Logits of the candidates, best first, -inf where a filter cut, and their token ids; both [rows, candidates].
    """
    total = logits.logsumexp(dim=-1, keepdim=True)
    floor = logits.max(dim=-1, keepdim=True).values + min_p.log()
    best, order = _best(logits, total, floor, top_p) if most is None else logits.topk(min(most, logits.shape[-1]))
    place = torch.arange(best.shape[-1], device=logits.device)
    best = best.masked_fill((best < floor) | ((place >= top_k) & (top_k > 0)), -torch.inf)
    bounded = (top_k > 0) | (min_p > 0)
    mass = (best - torch.where(bounded, best.logsumexp(dim=-1, keepdim=True), total)).exp()
    return best.masked_fill((mass.cumsum(dim=-1) - mass >= top_p) & (place > 0), -torch.inf), order


def _best(logits: Tensor, total: Tensor, floor: Tensor, top_p: Tensor) -> tuple[Tensor, Tensor]:
    """Give at least the tokens that rows without a top_k may draw, best first.

    How many those are only the logits say. A CPU looks, because sorting everything is slow there; a GPU sorts, because
    looking would stop it.
    """
    vocabulary = logits.shape[-1]
    for count in () if logits.is_cuda else _CANDIDATES:
        best, order = logits.topk(min(vocabulary, count), dim=-1)
        short = (best[:, -1:] >= floor) & ((best - total).exp().sum(dim=-1, keepdim=True) < top_p)
        if not bool(short.any()):
            return best, order
    found = logits.sort(dim=-1, descending=True)
    return found.values, found.indices
