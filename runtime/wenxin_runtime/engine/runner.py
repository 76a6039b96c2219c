"""The model and its KV cache: a plan in, logits out."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from wenxin_runtime.engine.batch import build
from wenxin_runtime.engine.request import Request
from wenxin_runtime.engine.sampler import describe
from wenxin_runtime.engine.scheduler import Chunk, Plan
from wenxin_runtime.layers.attention import AttentionInput

# Prompt rows whose logits are held at the same time, where a request wants the logprobs of its prompt.
_SCORED_ROWS = 64


class Model(Protocol):
    """What every model in `wenxin_runtime.models` does."""

    def __call__(self, token_ids: Tensor, positions: Tensor, kv_cache: Tensor, step: AttentionInput) -> Tensor:
        """Compute hidden states [rows, hidden] and fill the cache."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Score the vocabulary: [rows, hidden] to [rows, vocab]."""


class Scored(NamedTuple):
    """The requests whose next token can be sampled, and its logits [requests, vocab] in the model's dtype."""

    requests: tuple[Request, ...]
    logits: Tensor


class Runner:
    """Runs plans on one device.

    `kv_cache` is [layers, blocks, block_size, 2 * kv_heads, head_dim] in the model's dtype.
    """

    def __init__(self, model: Model, kv_cache: Tensor) -> None:
        self._model = model
        self._kv_cache = kv_cache
        self._block_size = kv_cache.shape[2]
        self._no_logits = torch.empty(0, 1, device=kv_cache.device)

    @torch.inference_mode()
    def run(self, plan: Plan) -> Scored:
        """Compute a plan's tokens; prompt logprobs, where wanted, are added to the requests."""
        if not plan:
            return Scored((), self._no_logits)
        cache = self._kv_cache
        batch = build(plan, self._block_size, cache.device)
        hidden = self._model(batch.token_ids, batch.positions, cache, batch.attention)
        rows: list[int] = []
        requests: list[Request] = []
        first = 0
        for chunk in plan:
            if not chunk.request.reusable:
                self._score_prompt(chunk, hidden[first : first + chunk.count])
            first += chunk.count
            if chunk.catches_up:
                requests.append(chunk.request)
                rows.append(first - 1)
        return Scored(tuple(requests), self._model.logits(hidden[rows]) if rows else self._no_logits)

    def _score_prompt(self, chunk: Chunk, hidden: Tensor) -> None:
        """Append the logprobs of the prompt tokens that follow this chunk's tokens."""
        request = chunk.request
        if not request.prompt_logprobs:
            request.prompt_logprobs.append(None)  # nothing precedes the first token
        # After a preemption the first tokens pass again; their logprobs are there already.
        start = max(chunk.start, len(request.prompt_logprobs) - 1)
        end = min(chunk.end, len(request.prompt_ids) - 1)
        for low, high in _slices(start, end, _SCORED_ROWS):
            logits = self._model.logits(hidden[low - chunk.start : high - chunk.start])
            following = torch.tensor(request.prompt_ids[low + 1 : high + 1], device=logits.device)
            request.prompt_logprobs += describe(logits, following, request.sampling.prompt_logprobs or 0)


def _slices(start: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    return ((low, min(low + size, end)) for low in range(start, end, size))
