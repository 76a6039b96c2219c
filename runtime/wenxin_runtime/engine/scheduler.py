"""Which tokens of which requests the next step computes. Plain Python, no tensors.

There is no prefill and no decode phase: a request has known tokens and computed ones, and every step lets the computed
ones catch up, within a budget of tokens. That is chunked prefill, decoding and recomputing after a preemption in one
path. Rules:

- Requests whose answer is being written (one token to catch up) come first, so a long prompt never stalls them; beside
  them the prompts get a part of the budget only, which bounds the time between two tokens of a stream.
- Admission is first come, first served, and nobody overtakes. When blocks run out, the youngest running request gives
  its blocks back and waits, in front of all that came later. So the oldest always advances, and nothing starves.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from wenxin_runtime.engine.kv_blocks import BlockPool
from wenxin_runtime.engine.request import Request


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one step.

    Attributes:
        max_num_seqs: Requests that run at the same time.
        max_tokens: Tokens computed in one step; at least `max_num_seqs`, or a prompt beside full slots would starve.
        max_prompt_tokens_beside_streams: Prompt tokens in a step in which an answer is being written.
    """

    max_num_seqs: int
    max_tokens: int
    max_prompt_tokens_beside_streams: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `start` to `start + count` of one request."""

    request: Request
    start: int
    count: int

    @property
    def end(self) -> int:
        """Number of computed tokens once this chunk is."""
        return self.start + self.count

    @property
    def catches_up(self) -> bool:
        """Whether nothing known is left to compute: the next token can be sampled."""
        return self.end == len(self.request.token_ids)


Plan = tuple[Chunk, ...]


class Scheduler:
    """The requests, waiting and running, both in order of arrival; every waiting one is younger than all running."""

    def __init__(self, limits: Limits, pool: BlockPool) -> None:
        self.limits = limits
        self.pool = pool
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.preemptions = 0
        self.prefix_queries = 0
        self.prefix_hits = 0

    def add(self, request: Request) -> None:
        """Let a request wait for its turn."""
        self.waiting.append(request)

    def remove(self, request: Request) -> None:
        """Free what a request owns, wherever it stands: it has ended, or nobody wants it any more."""
        self.pool.release(request.table)
        if request in self.running:
            self.running.remove(request)
        else:
            self.waiting.remove(request)

    def schedule(self) -> Plan:
        """Choose the next step's chunks; streams come first. Empty only when nothing is waiting or running."""
        step = _Step(self.limits.max_tokens)
        for request in [r for r in self.running if r.uncomputed == 1]:
            self._continue(request, 1, step)
        if step.planned:
            step.budget = min(step.budget, self.limits.max_prompt_tokens_beside_streams)
        for request in [r for r in self.running if r.uncomputed > 1]:
            self._continue(request, step.budget, step)
        if not step.preempted:
            self._admit(step)
        return tuple(step.chunks())

    def advance(self, plan: Plan) -> None:
        """Take note that the plan's tokens are computed."""
        for chunk in plan:
            chunk.request.computed = chunk.end
            self.pool.publish(chunk.request.table, chunk.request.token_ids, chunk.end)

    def _continue(self, request: Request, most: int, step: "_Step") -> None:
        """Plan up to `most` tokens of a running request; make room by preempting younger ones, itself in the end."""
        count = min(request.uncomputed, most)
        while count and request in self.running:
            if self.pool.grow(request.table, request.computed + count):
                step.plan(request, count)
                return
            self._preempt(self.running[-1], step)

    def _preempt(self, request: Request, step: "_Step") -> None:
        self.running.remove(request)
        self.pool.release(request.table)
        request.computed = 0
        step.forget(request)
        self.waiting.appendleft(request)
        self.preemptions += 1

    def _admit(self, step: "_Step") -> None:
        # What running requests have still to take, and one block for each to grow into: giving these away would only
        # preempt the newcomer a few steps later.
        promised = sum(self._missing(request) + 1 for request in self.running)
        while self.waiting and len(self.running) < self.limits.max_num_seqs and step.budget:
            request = self.waiting[0]
            hits = self.pool.reuse(request.table, request.token_ids) if request.reusable else 0
            if self._missing(request) > self.pool.free - promised and self.running:
                self.pool.release(request.table)
                return
            self.waiting.popleft()
            self.running.append(request)
            request.computed = hits
            self._count_first_admission(request)
            self._continue(request, step.budget, step)
            promised += self._missing(request) + 1

    def _missing(self, request: Request) -> int:
        return self.pool.blocks_for(len(request.token_ids)) - len(request.table.blocks)

    def _count_first_admission(self, request: Request) -> None:
        if request.cached_tokens is None:
            request.cached_tokens = request.computed
            self.prefix_queries += len(request.prompt_ids)
            self.prefix_hits += request.computed


class _Step:
    """A plan in the making."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.planned: dict[Request, int] = {}
        self.preempted = False

    def plan(self, request: Request, count: int) -> None:
        self.planned[request] = count
        self.budget -= count

    def forget(self, request: Request) -> None:
        self.budget += self.planned.pop(request, 0)
        self.preempted = True

    def chunks(self) -> Iterator[Chunk]:
        return (Chunk(request, request.computed, count) for request, count in self.planned.items())
