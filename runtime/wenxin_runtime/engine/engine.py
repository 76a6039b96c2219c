"""The engine: one step is schedule, run, sample, commit, emit."""

import hashlib
import time
from collections.abc import Iterable

from wenxin_runtime.engine.kv_blocks import BlockTable
from wenxin_runtime.engine.request import Request
from wenxin_runtime.engine.runner import Runner
from wenxin_runtime.engine.sampler import Row, Sampled, sample
from wenxin_runtime.engine.scheduler import Plan, Scheduler
from wenxin_runtime.ipc import Delta, EngineStats, Outputs, Submit

_NOTHING_TO_DRAW = (
    "no token could be chosen: the model's logits are not finite, or logit_bias and min_tokens leave nothing"
)


class Engine:
    """Continuous batching over one runner. Every submitted request gets exactly one ending, unless it is aborted."""

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        *,
        vocab_size: int,
        max_model_len: int,
        eos_token_ids: Iterable[int],
        seed: int,
    ) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._vocab_size = vocab_size
        self._max_model_len = max_model_len
        self._eos_token_ids = tuple(eos_token_ids)
        self._seed = seed
        self._requests: dict[str, Request] = {}
        self._refused: list[Delta] = []
        self._submitted = 0
        self._prompt_tokens = 0
        self._generation_tokens = 0

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._requests or self._refused)

    def submit(self, message: Submit) -> None:
        """Accept a request, or let the next step end it with an error where it cannot be computed."""
        problem = self._problem(message)
        if problem:
            self._refused.append(Delta(message.request_id, finish_reason="error", error=problem))
            return
        self._submitted += 1
        params = message.sampling
        request = Request(
            request_id=message.request_id,
            prompt_ids=message.prompt_ids,
            sampling=params,
            seed=params.seed if params.seed is not None else _derived_seed(self._seed, self._submitted),
            stop_ids=params.stop_token_ids + (() if params.ignore_eos else self._eos_token_ids),
            max_len=min(len(message.prompt_ids) + params.max_tokens, self._max_model_len),
            table=BlockTable(message.cache_salt),
        )
        self._requests[request.request_id] = request
        self._scheduler.add(request)

    def abort(self, request_ids: Iterable[str]) -> None:
        """Free what the requests own; nothing more is said about them. Unknown ids have ended already."""
        for request_id in request_ids:
            request = self._requests.pop(request_id, None)
            if request is not None:
                self._scheduler.remove(request)

    def step(self) -> Outputs:
        """Let every scheduled request advance."""
        started = time.perf_counter()
        plan = self._scheduler.schedule()
        scheduled = time.perf_counter()
        requests, logits = self._runner.run(plan)
        forwarded = time.perf_counter()
        drawn = sample(logits, [_row(request) for request in requests])
        self._scheduler.advance(plan)
        deltas = [self._commit(request, token) for request, token in zip(requests, drawn, strict=True)]
        ended = time.perf_counter()
        stats = self._stats(plan, scheduled - started, forwarded - scheduled, ended - forwarded)
        return Outputs((*self._take_refused(), *deltas), stats)

    def _commit(self, request: Request, drawn: Sampled) -> Delta:
        """Append the token; end the request where it ends."""
        first = not request.generated
        if first:
            self._prompt_tokens += len(request.prompt_ids)
        token_ids: tuple[int, ...] = ()
        error = _NOTHING_TO_DRAW if drawn.token_id is None else None
        if drawn.token_id is not None and len(request.token_ids) < request.max_len:  # max_tokens may be 0
            token_ids = (drawn.token_id,)
            request.token_ids.append(drawn.token_id)
            self._generation_tokens += 1
        reason = "error" if error else request.finish_reason()
        if reason is not None:
            self._scheduler.remove(request)
            del self._requests[request.request_id]
        return Delta(
            request.request_id,
            token_ids=token_ids,
            logprobs=(drawn.logprobs,) if token_ids and drawn.logprobs else None,
            finish_reason=reason,
            stop_token_id=drawn.token_id if reason == "stop" else None,
            cached_tokens=(request.cached_tokens or 0) if first else 0,
            prompt_logprobs=tuple(request.prompt_logprobs) if first and not request.reusable else None,
            error=error,
        )

    def _take_refused(self) -> list[Delta]:
        refused, self._refused = self._refused, []
        return refused

    def _problem(self, message: Submit) -> str | None:
        """Say why a request cannot be computed; the server has checked, but one bad request must not end the engine."""
        if message.request_id in self._requests:
            return f"request id {message.request_id} is in use"
        if not message.prompt_ids:
            return "the prompt is empty"
        if len(message.prompt_ids) + min(message.sampling.max_tokens, 1) > self._max_model_len:
            length = len(message.prompt_ids)
            return f"the prompt has {length} tokens; with the answer there is room for {self._max_model_len}"
        named = (*message.prompt_ids, *message.sampling.logit_bias, *message.sampling.stop_token_ids)
        if not all(0 <= token < self._vocab_size for token in named):
            return f"a token id lies outside the vocabulary of {self._vocab_size}"
        return None

    def _stats(self, plan: Plan, schedule: float, forward: float, sampling: float) -> EngineStats:
        scheduler = self._scheduler
        return EngineStats(
            waiting=len(scheduler.waiting),
            running=len(scheduler.running),
            kv_blocks_used=scheduler.pool.owned,
            kv_blocks_total=scheduler.pool.total,
            batch_tokens=sum(chunk.count for chunk in plan),
            batch_sequences=len(plan),
            schedule_seconds=schedule,
            forward_seconds=forward,
            sample_seconds=sampling,
            preemptions_total=scheduler.preemptions,
            prompt_tokens_total=self._prompt_tokens,
            generation_tokens_total=self._generation_tokens,
            prefix_cache_queries_total=scheduler.prefix_queries,
            prefix_cache_hits_total=scheduler.prefix_hits,
        )


def _row(request: Request) -> Row:
    return Row(request.sampling, request.seed, request.token_ids, len(request.prompt_ids), request.stop_ids)


def _derived_seed(seed: int, ordinal: int) -> int:
    """Give each request that brings no seed its own, the same in every run of the same requests."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{ordinal}".encode(), digest_size=8).digest())
