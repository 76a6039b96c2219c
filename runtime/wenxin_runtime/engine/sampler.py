"""From logits to tokens: one reproducible draw per sequence, and log probabilities, on the device of the logits.

The order is vLLM's: penalties, bias, bans and constraints (`shaping`), then temperature, min_p, top_k, top_p, then the
draw. Log probabilities describe the distribution before all of that. A draw depends on the sequence's own seed and
position alone, so an answer repeats whatever else runs in the batch. On a GPU nothing here waits but `Drawn.read`.
"""

import enum
import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from wenxin_runtime.engine.shaping import Row, shape
from wenxin_runtime.engine.transfer import Readback, to_device
from wenxin_runtime.ipc import TokenLogprobs

_GREEDY_BELOW = 1e-5
# Best tokens looked at first, and next, on a CPU: sorting a vocabulary of 100,000 takes as long as a step of the model.
_CANDIDATES = (256, 4096)
# Places that are summed up as one first, when a draw looks for its own.
_CHUNK = 256


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
    chosen = torch.empty(len(rows), dtype=torch.int64, device=logits.device)
    for kind in Kind:
        drawing = [i for i, row in enumerate(rows) if _kind(row) is kind]
        if len(drawing) == len(rows):
            chosen = _draw(shaped, rows, kind)
        elif drawing:
            picked = to_device(drawing, torch.int64, logits.device)
            chosen[picked] = _draw(shaped[picked], [rows[i] for i in drawing], kind)
    described, tops = _describe_rows(logits, chosen, rows)
    healthy = shaped.amax(dim=-1).isfinite()  # amax propagates NaN, and is -inf where nothing is allowed
    return Drawn(chosen.where(healthy, -1), described, tops)


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


class Kind(enum.Enum):
    """How a row is drawn. Kinds are drawn apart: the order of the tokens is part of the draw."""

    GREEDY = enum.auto()
    """The most likely token."""
    PLAIN = enum.auto()
    """Any token, in the order of the vocabulary."""
    BOUNDED = enum.auto()
    """One of the best `top_k`, best first."""
    UNBOUNDED = enum.auto()
    """One of as many as the other filters leave, best first."""


def _kind(row: Row) -> Kind:
    params = row.params
    if params.temperature < _GREEDY_BELOW:
        return Kind.GREEDY
    if params.top_k > 0:
        return Kind.BOUNDED
    return Kind.UNBOUNDED if params.top_p < 1 or params.min_p > 0 else Kind.PLAIN


def _describe_rows(logits: Tensor, chosen: Tensor, rows: Sequence[Row]) -> tuple[Described | None, dict[int, int]]:
    tops = {i: row.params.logprobs for i, row in enumerate(rows) if row.params.logprobs is not None}
    if not tops:
        return None, {}
    picked = to_device(list(tops), torch.int64, logits.device)
    return describe(logits[picked], chosen[picked], max(tops.values())), tops


def _draw(logits: Tensor, rows: Sequence[Row], kind: Kind) -> Tensor:
    """Draw one token per row by inverting the cumulative distribution at the row's own uniform number."""
    if kind is Kind.GREEDY:
        return logits.argmax(dim=-1)
    columns = [
        (uniform(row.seed, row.generated), row.params.temperature, row.params.min_p, row.params.top_k, row.params.top_p)
        for row in rows
    ]
    point, *others = to_device(columns, torch.float64, logits.device)[:, :, None].unbind(1)
    temperature, min_p, top_k, top_p = (column.float() for column in others)
    if kind is Kind.PLAIN:
        return _inverted((logits / temperature).softmax(dim=-1), point)[:, 0]
    if kind is Kind.BOUNDED:
        best, order = logits.topk(min(max(row.params.top_k for row in rows), logits.shape[-1]), dim=-1)
        best = best / temperature
        beyond = torch.arange(best.shape[-1], device=best.device) >= top_k
        mass = _filtered(best.masked_fill_(beyond, -torch.inf), min_p, top_p)
    elif logits.is_cuda:
        from wenxin_runtime.kernels.gpu.sampling import draw  # noqa: PLC0415 - Triton, which a CPU's torch comes without

        return draw(logits / temperature, point[:, 0], min_p[:, 0], top_p[:, 0])
    else:
        scaled = logits / temperature
        total = scaled.logsumexp(dim=-1, keepdim=True)
        best, order = _best(scaled, total, min_p, top_p)
        mass = _filtered(best, min_p, top_p, total)
    return order.gather(1, _inverted(mass, point))[:, 0]


def _filtered(best: Tensor, min_p: Tensor, top_p: Tensor, total: Tensor | None = None) -> Tensor:
    """Keep what min_p and then top_p allow; the most likely token always stays.

    Args:
        best: Logits, best first, [rows, candidates].
        min_p: [rows, 1], as the others.
        top_p: Share of the mass that min_p leaves.
        total: Log of the mass of the whole vocabulary, where min_p has to leave more than the candidates.

    Returns:
        The mass of each candidate, 0 where a filter cut.
    """
    best = best.masked_fill(best < best[:, :1] + min_p.log(), -torch.inf)
    kept = best.logsumexp(dim=-1, keepdim=True)
    mass = (best - (kept if total is None else torch.where(min_p > 0, kept, total))).exp()
    cut = mass.cumsum(dim=-1) - mass >= top_p
    cut[:, 0] = False
    return mass.masked_fill_(cut, 0)


def _best(logits: Tensor, total: Tensor, min_p: Tensor, top_p: Tensor) -> tuple[Tensor, Tensor]:
    """Give at least the tokens that rows without a top_k may draw, best first, and their ids.

    How many those are only the logits say. A CPU looks, because sorting everything is slow; a GPU, which looking would
    stop, has a kernel of its own for such rows.
    """
    for count in _CANDIDATES:
        best, order = logits.topk(min(logits.shape[-1], count), dim=-1)
        floor = best[:, :1] + min_p.log()
        short = (best[:, -1:] >= floor) & ((best - total).exp().sum(dim=-1, keepdim=True) < top_p)
        if not bool(short.any()):
            return best, order
    found = logits.sort(dim=-1, descending=True)
    return found.values, found.indices


def _inverted(mass: Tensor, point: Tensor) -> Tensor:
    """Find where the running sum of `mass` passes the share `point` of all of it; never a place without mass.

    The sums of chunks come first, and only one chunk is summed up place by place.

    Args:
        mass: [rows, places].
        point: In [0, 1), float64 [rows, 1].

    Returns:
        int64 [rows, 1].
    """
    chunks = F.pad(mass, (0, -mass.shape[1] % _CHUNK)).view(mass.shape[0], -1, _CHUNK)
    sums = chunks.sum(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    target = point * sums[:, -1:]
    chunk = torch.searchsorted(sums, target, right=True).clamp_(max=sums.shape[1] - 1)
    before = F.pad(sums, (1, -1)).gather(1, chunk)
    inside = chunks.gather(1, chunk[:, :, None].expand(-1, 1, _CHUNK))[:, 0].cumsum(dim=-1, dtype=torch.float64)
    # The two sums of a chunk differ by their rounding: stay below the one that is searched.
    offset = torch.minimum(target - before, inside[:, -1:] * (1 - 2**-52))
    place = torch.searchsorted(inside, offset, right=True)
    return (chunk * _CHUNK + place).clamp_(max=mass.shape[1] - 1)
