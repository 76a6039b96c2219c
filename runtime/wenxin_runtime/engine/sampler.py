"""From logits to tokens: penalties, filters, one reproducible draw per sequence, log probabilities.

The order is vLLM's: penalties, bans and bias, then temperature, min_p, top_k, top_p, then the draw. Log probabilities
describe the distribution before all of that. A draw depends on the sequence's own seed and position alone, so an
answer repeats whatever else runs in the batch.
"""

import hashlib
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from wenxin_runtime.ipc import SamplingParams, TokenLogprobs

_GREEDY_BELOW = 1e-5
# Best tokens looked at first, and next; sorting a vocabulary of 100,000 takes as long as a step of the model.
_CANDIDATES = (256, 4096)


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence that gets its next token.

    Attributes:
        params: What its request asked for.
        seed: The request's seed, or one that the engine drew for it.
        token_ids: The prompt's tokens and those generated so far; the request's own list, not a copy.
        prompt_length: How many of them are the prompt's.
        ending_ids: EOS and stop tokens, banned while the answer is shorter than `params.min_tokens`.
    """

    params: SamplingParams
    seed: int
    token_ids: Sequence[int]
    prompt_length: int
    ending_ids: Sequence[int] = ()

    @property
    def generated(self) -> int:
        """Number of tokens generated so far: the position of the next one."""
        return len(self.token_ids) - self.prompt_length

    @property
    def must_go_on(self) -> bool:
        """Whether the next token may not be one that ends the answer."""
        return self.generated < self.params.min_tokens

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken, without a draw."""
        return self.params.temperature < _GREEDY_BELOW

    @property
    def filters(self) -> bool:
        """Whether less likely tokens are cut before the draw."""
        return self.params.top_k > 0 or self.params.top_p < 1 or self.params.min_p > 0

    @property
    def reshapes(self) -> bool:
        """Whether any logit changes before the choice."""
        p = self.params
        penalised = p.presence_penalty != 0 or p.frequency_penalty != 0 or p.repetition_penalty != 1
        return penalised or bool(p.logit_bias) or self.must_go_on


@dataclass(frozen=True, slots=True)
class Sampled:
    """The next token of one sequence; `token_id` is None where the logits were not finite."""

    token_id: int | None
    logprobs: TokenLogprobs | None = None


def sample(logits: Tensor, rows: Sequence[Row]) -> list[Sampled]:
    """Choose the next token of every row.

    Args:
        logits: [rows, vocabulary], any float dtype; not changed.
        rows: One per row of `logits`.
    """
    logits = logits.float()
    shaped = _reshape(logits, rows)
    best, chosen = shaped.max(dim=-1)  # max propagates NaN, so one look at `best` judges the whole row
    for filtered in (False, True):
        drawing = [i for i, row in enumerate(rows) if not row.greedy and row.filters == filtered]
        if drawing:
            picked = torch.tensor(drawing, device=logits.device)
            chosen[picked] = _draw(shaped[picked], [rows[i] for i in drawing], filtered=filtered)
    healthy = best.isfinite().tolist()
    described = _describe_rows(logits, chosen, rows)
    return [
        Sampled(token, described.get(i)) if fine else Sampled(None)
        for i, (token, fine) in enumerate(zip(chosen.tolist(), healthy, strict=True))
    ]


def describe(logits: Tensor, token_ids: Tensor, top: int) -> list[TokenLogprobs]:
    """Give the log probability and rank of `token_ids` and the `top` most likely alternatives.

    Args:
        logits: [positions, vocabulary] as the model gave them.
        token_ids: [positions], int64.
        top: How many alternatives.
    """
    logprobs = logits.float().log_softmax(dim=-1)
    own = logprobs.gather(1, token_ids[:, None])
    ranks = (logprobs > own).sum(dim=-1) + 1
    values, indices = logprobs.topk(top, dim=-1)
    return [
        TokenLogprobs(logprob, rank, tuple(zip(ids, best, strict=True)))
        for logprob, rank, ids, best in zip(
            own[:, 0].tolist(), ranks.tolist(), indices.tolist(), values.tolist(), strict=True
        )
    ]


def uniform(seed: int, position: int) -> float:
    """Return the number in [0, 1) of (seed, position): a hash, so equal on every host and in every batch."""
    digest = hashlib.blake2b(struct.pack("<qq", _as_int64(seed), position), digest_size=8).digest()
    return float(int.from_bytes(digest, "little") >> 11) * 2.0**-53


def _describe_rows(logits: Tensor, chosen: Tensor, rows: Sequence[Row]) -> dict[int, TokenLogprobs]:
    wanted = [i for i, row in enumerate(rows) if row.params.logprobs is not None]
    if not wanted:
        return {}
    picked = torch.tensor(wanted, device=logits.device)
    top = max(rows[i].params.logprobs or 0 for i in wanted)
    found = describe(logits[picked], chosen[picked], top)
    return {
        i: TokenLogprobs(each.logprob, each.rank, each.top[: rows[i].params.logprobs])
        for i, each in zip(wanted, found, strict=True)
    }


def _reshape(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Return the logits after penalties, bans and bias; the input itself where no row asks for any."""
    touched = [(i, row) for i, row in enumerate(rows) if row.reshapes]
    if not touched:
        return logits
    shaped = logits.clone()
    for i, row in touched:
        _penalise(shaped[i], row)
        if row.params.logit_bias:
            ids = torch.tensor(list(row.params.logit_bias), device=logits.device)
            shaped[i, ids] += torch.tensor(list(row.params.logit_bias.values()), device=logits.device)
        if row.must_go_on and row.ending_ids:
            shaped[i, torch.tensor(list(row.ending_ids), device=logits.device)] = -torch.inf
    return shaped


def _penalise(logits: Tensor, row: Row) -> None:
    """Apply the penalties in place to `logits` [vocabulary].

    The repetition penalty counts the prompt too (Keskar et al. 2019), presence and frequency only the answer.
    """
    p = row.params
    if p.repetition_penalty != 1:
        seen = torch.tensor(sorted(set(row.token_ids)), device=logits.device)
        held = logits[seen]
        logits[seen] = torch.where(held > 0, held / p.repetition_penalty, held * p.repetition_penalty)
    if row.generated and (p.presence_penalty != 0 or p.frequency_penalty != 0):
        counts = Counter(row.token_ids[row.prompt_length :])
        ids = torch.tensor(list(counts), device=logits.device)
        times = torch.tensor(list(counts.values()), device=logits.device, dtype=logits.dtype)
        logits[ids] -= p.presence_penalty + p.frequency_penalty * times


def _draw(logits: Tensor, rows: Sequence[Row], *, filtered: bool) -> Tensor:
    """Draw one token per row by inverting the cumulative distribution at the row's own uniform number.

    Rows with and without filters are drawn apart: the order of the tokens is part of the draw.
    """
    logits = logits / _column(rows, logits.device, "temperature")
    order: Tensor | None = None
    if filtered:
        logits, order = _filtered(logits, rows)
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    points = torch.tensor(
        [[uniform(row.seed, row.generated)] for row in rows], dtype=torch.float64, device=logits.device
    )
    # Scaling by the last value makes up for a sum that is not exactly 1; right=True never picks a token of mass 0.
    place = torch.searchsorted(cumulative, points * cumulative[:, -1:], right=True).clamp_(max=logits.shape[-1] - 1)
    return (place if order is None else order.gather(1, place))[:, 0]


def _filtered(logits: Tensor, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Keep what min_p, top_k and top_p allow, in this order; the most likely token always stays.

    Returns:
        Logits of the candidates, best first, -inf where a filter cut, and their token ids; both [rows, candidates].
        The whole vocabulary is sorted only where `_CANDIDATES` do not hold all that a row may draw.
    """
    column = partial(_column, rows, logits.device)
    min_p, top_k, top_p = column("min_p"), column("top_k"), column("top_p")
    total = logits.logsumexp(dim=-1, keepdim=True)
    floor = logits.max(dim=-1, keepdim=True).values + min_p.log()
    most, vocabulary = int(top_k.max()), logits.shape[-1]
    for count in (*_CANDIDATES, vocabulary):
        best, order = logits.topk(min(vocabulary, max(count, most)), dim=-1)
        short = (top_k == 0) & (best[:, -1:] >= floor) & ((best - total).exp().sum(dim=-1, keepdim=True) < top_p)
        if not bool(short.any()):
            break
    place = torch.arange(best.shape[-1], device=logits.device)
    best = best.masked_fill((best < floor) | ((place >= top_k) & (top_k > 0)), -torch.inf)
    bounded = (top_k > 0) | (min_p > 0)
    mass = (best - torch.where(bounded, best.logsumexp(dim=-1, keepdim=True), total)).exp()
    return best.masked_fill((mass.cumsum(dim=-1) - mass >= top_p) & (place > 0), -torch.inf), order


def _column(rows: Sequence[Row], device: torch.device, name: str) -> Tensor:
    """Gather one sampling parameter as [rows, 1]."""
    return torch.tensor([[float(getattr(row.params, name))] for row in rows], device=device)


def _as_int64(seed: int) -> int:
    return (seed + 2**63) % 2**64 - 2**63
