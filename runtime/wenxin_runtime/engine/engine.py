"""The engine: one step is schedule, launch, land, sample."""

import time
from collections.abc import Callable, Iterable

from wenxin_runtime.engine.admission import Admission, Refused
from wenxin_runtime.engine.compiling import Compiling
from wenxin_runtime.engine.flight import NOTHING, Flight
from wenxin_runtime.engine.inspection import inspected
from wenxin_runtime.engine.request import Request
from wenxin_runtime.engine.runner import Launched, Runner
from wenxin_runtime.engine.sampler import Sampled, sample
from wenxin_runtime.engine.scheduler import Plan, Scheduler
from wenxin_runtime.engine.shaping import Row
from wenxin_runtime.engine.stopwatch import Stopwatch
from wenxin_runtime.ipc import Delta, EngineStats, ExpertStats, FinishReason, Inspected, Outputs, SamplingParams, Submit

_NOTHING_TO_DRAW = (
    "no token could be chosen: the model's logits are not finite, or logit_bias and min_tokens leave nothing"
)
# What is drawn for a request that has ended after its next token was launched. Nobody reads it.
_UNWANTED = Row(SamplingParams(max_tokens=0, temperature=0.0), seed=0)


class Engine:
    """Continuous batching over one runner. Every submitted request gets exactly one ending, unless it is aborted.

    In lockstep a step's tokens are known when it returns. Asynchronously they stay in flight until the next step has
    launched its forward, so that the device computes while the host schedules, commits and sends.
    """

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        admission: Admission,
        *,
        asynchronous: bool = False,
        expert_stats: Callable[[], ExpertStats] = ExpertStats,
    ) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._admission = admission
        self._asynchronous = asynchronous
        self._expert_stats = expert_stats
        self._requests: dict[str, Request] = {}
        self._refused: list[Delta] = []
        self._compiling = Compiling()
        self._flight = NOTHING
        self._prompt_tokens = 0
        self._generation_tokens = 0

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._requests or self._refused or self._compiling)

    def submit(self, message: Submit) -> None:
        """Accept a prompt's choices, or let the next step end them with an error where they cannot be computed."""
        compilation = self._admission.compiling(message)
        if compilation is not None:
            self._compiling.add(message, compilation)
        else:
            self._admit(message)

    def abort(self, request_ids: Iterable[str]) -> None:
        """Free what the requests own; nothing more is said about them. Unknown ids have ended already."""
        for request_id in request_ids:
            if request_id in self._requests:
                self._end(self._requests[request_id])
            else:
                self._compiling.abort(request_id)

    def step(self) -> Outputs:
        """Let every scheduled request advance.

        Only landing waits for the device. Asynchronously it waits for the step before, when the next forward is
        launched already; in lockstep it waits for this one. Either way a token is sampled with all before it known.
        """
        self._admit_compiled()
        clock = Stopwatch()
        plan = self._scheduler.schedule()
        clock.lap("schedule")
        launched = self._runner.launch(plan, self._flight)
        self._scheduler.advance(plan)
        clock.lap("forward")
        deltas = self._land()
        clock.lap("wait")
        self._flight = self._sample(launched)
        clock.lap("sample")
        if not self._asynchronous:
            deltas += self._land()
            clock.lap("wait")
        return Outputs((*self._take_refused(), *deltas), self._stats(plan, clock))

    def inspect(self) -> Inspected:
        """Say where every sequence stands."""
        return inspected(self._scheduler, compiling=len(self._compiling))

    def _admit(self, message: Submit) -> None:
        try:
            requests = self._admission.requests(message, self._requests)
        except Refused as why:
            self._refused += [Delta(name, finish_reason="error", error=str(why)) for name in message.request_ids]
            return
        for request in requests:
            self._requests[request.request_id] = request
            self._scheduler.add(request)

    def _admit_compiled(self) -> None:
        """Let in whose grammar is ready; nobody waits for the others."""
        for message, unwanted in self._compiling.take(wait=not self._requests):
            self._admit(message)
            self.abort(unwanted)

    def _land(self) -> list[Delta]:
        """Wait for what is in flight and commit it, but for requests that have ended meanwhile."""
        flight, self._flight = self._flight, NOTHING
        for scores in flight.scores:
            scores.land()
        drawn = zip(flight.requests, flight.drawn.read(), strict=True)
        return [self._commit(request, sampled) for request, sampled in drawn if self._has(request)]

    def _sample(self, launched: Launched) -> Flight:
        rows = [_row(request) if self._has(request) else _UNWANTED for request in launched.requests]
        return Flight(launched.requests, sample(launched.logits, rows), launched.scores)

    def _commit(self, request: Request, drawn: Sampled) -> Delta:
        """Append the token; end the request where it ends."""
        request.in_flight -= 1
        times, first = request.times, request.times.answered is None
        if first:
            self._answered(request)
        token_ids: tuple[int, ...] = ()
        error = _why_nothing(request) if drawn.token_id is None else None
        if drawn.token_id is not None and len(request.token_ids) < request.max_len:  # max_tokens may be 0
            token_ids = (drawn.token_id,)
            request.append(drawn.token_id)
            self._generation_tokens += 1
        reason: FinishReason | None = "error" if error else request.finish_reason()
        if reason is not None:
            self._end(request)
        return Delta(
            request.request_id,
            token_ids=token_ids,
            logprobs=(drawn.logprobs,) if token_ids and drawn.logprobs else None,
            finish_reason=reason,
            stop_token_id=drawn.token_id if reason == "stop" and drawn.token_id in request.stop_ids else None,
            cached_tokens=(request.prompt.cached_tokens or 0) if first else 0,
            prompt_logprobs=request.prompt_logprobs if first else None,
            error=error,
            queue_seconds=times.queue if first else None,
            prefill_seconds=times.prefill if first else None,
            decode_seconds=times.decode() if reason is not None else None,
        )

    def _answered(self, request: Request) -> None:
        request.times.answered = time.perf_counter()
        if not request.prompt.answered:  # a prompt counts once, however many choices it has
            request.prompt.answered = True
            self._prompt_tokens += len(request.prompt.ids)

    def _end(self, request: Request) -> None:
        del self._requests[request.request_id]
        self._scheduler.remove(request)

    def _has(self, request: Request) -> bool:
        """Whether a request goes on; another one may have its id by now."""
        return self._requests.get(request.request_id) is request

    def _take_refused(self) -> list[Delta]:
        refused, self._refused = self._refused, []
        return refused

    def _stats(self, plan: Plan, clock: Stopwatch) -> EngineStats:
        scheduler = self._scheduler
        return EngineStats(
            waiting=len(scheduler.waiting) + len(self._compiling),
            running=len(scheduler.running),
            kv_blocks_used=scheduler.pools.owned,
            kv_blocks_total=scheduler.pools.total,
            batch_tokens=sum(chunk.count for chunk in plan),
            batch_sequences=len(plan),
            schedule_seconds=clock["schedule"],
            forward_seconds=clock["forward"],
            wait_seconds=clock["wait"],
            sample_seconds=clock["sample"],
            preemptions_total=scheduler.preemptions,
            prompt_tokens_total=self._prompt_tokens,
            generation_tokens_total=self._generation_tokens,
            prefix_cache_queries_total=scheduler.prefix_queries,
            prefix_cache_hits_total=scheduler.prefix_hits,
            grammars_total=self._compiling.compiled,
            grammar_seconds_total=self._compiling.seconds,
            experts=self._expert_stats(),
        )


def _why_nothing(request: Request) -> str:
    constraint = request.constraint
    return (constraint.problem if constraint is not None else None) or _NOTHING_TO_DRAW


def _row(request: Request) -> Row:
    return Row(request.sampling, request.seed, request.generated, request.stop_ids, request.seen, request.constraint)
