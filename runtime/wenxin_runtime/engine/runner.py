"""The model and its KV cache: a plan in, logits out. Nothing here waits for the device."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from wenxin_runtime.engine.batch import build
from wenxin_runtime.engine.flight import Flight, PromptScores
from wenxin_runtime.engine.request import Request
from wenxin_runtime.engine.sampler import describe
from wenxin_runtime.engine.scheduler import Chunk, Plan
from wenxin_runtime.engine.transfer import to_device
from wenxin_runtime.layers.attention import AttentionInput

# Prompt rows whose logits are held at the same time, where a request wants the logprobs of its prompt.
_SCORED_ROWS = 64


class Model(Protocol):
    """What every model in `wenxin_runtime.models` does."""

    def __call__(self, token_ids: Tensor, positions: Tensor, kv_cache: Tensor, step: AttentionInput) -> Tensor:
        """Compute hidden states [rows, hidden] and fill the cache; those of rows that no span wants may be missing."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Score the vocabulary: [rows, hidden] to [rows, vocab]."""


@dataclass(frozen=True, slots=True)
class Launched:
    """A step that the device computes, or soon will.

    Attributes:
        requests: Those whose next token can be sampled.
        logits: Theirs, [requests, vocab] in the model's dtype.
        scores: Logprobs of prompts.
    """

    requests: tuple[Request, ...]
    logits: Tensor
    scores: tuple[PromptScores, ...] = ()


class Runner:
    """Runs plans on one device.

    `kv_cache` is [layers, blocks, block_size, 2 * kv_heads, head_dim] in the model's dtype.
    """

    def __init__(self, model: Model, kv_cache: Tensor) -> None:
        self._model = model
        self._kv_cache = kv_cache
        self._block_size = kv_cache.shape[2]
        self._nothing = Launched((), torch.empty(0, 1, device=kv_cache.device))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._kv_cache.device

    @torch.inference_mode()
    def launch(self, plan: Plan, flight: Flight) -> Launched:
        """Start computing a plan; its tokens that the host does not know are taken from `flight`."""
        if not plan:
            return self._nothing
        cache = self._kv_cache
        batch = build(plan, self._block_size, cache.device, flight)
        hidden = self._model(batch.token_ids, batch.positions, cache, batch.attention)
        scores = tuple(
            score
            for span, chunk in zip(batch.attention.spans, plan, strict=True)
            if not chunk.request.reusable
            for score in self._score_prompt(chunk, hidden[span.start : span.start + span.count])
        )
        requests = tuple(chunk.request for chunk in plan if chunk.samples)
        logits = self._model.logits(hidden[batch.sampled]) if requests else self._nothing.logits
        return Launched(requests, logits, scores)

    def _score_prompt(self, chunk: Chunk, hidden: Tensor) -> Iterator[PromptScores]:
        """Score the prompt tokens that follow this chunk's tokens."""
        prompt, top = chunk.request.prompt, chunk.request.sampling.prompt_logprobs or 0
        # After a preemption the first tokens pass again; their logprobs are there already.
        start = max(chunk.start, prompt.scored - 1)
        end = min(chunk.end, len(prompt.ids) - 1)
        prompt.scored = max(prompt.scored, end + 1)
        for low, high in _slices(start, end, _SCORED_ROWS):
            logits = self._model.logits(hidden[low - chunk.start : high - chunk.start])
            following = to_device(prompt.ids[low + 1 : high + 1], torch.int64, logits.device)
            yield PromptScores(prompt, describe(logits, following, top))


def _slices(start: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    return ((low, min(low + size, end)) for low in range(start, end, size))
