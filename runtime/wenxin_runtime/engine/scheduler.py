"""Which tokens of which requests the next step computes. Plain Python, no tensors.

There is no prefill and no decode phase: a request has tokens and computed ones, and every step lets the computed ones
catch up, within a budget of tokens. That is chunked prefill, decoding and recomputing after a preemption in one path.
Rules:

- Requests whose answer is being written (one token to catch up) come first, so a long prompt never stalls them; beside
  them the prompts get a part of the budget only, which bounds the time between two tokens of a stream.
- Admission goes by priority, then by arrival, and nobody overtakes. When blocks run out, the last in this order gives
  its blocks back and waits. So the first always advances, and nothing starves among equals. A steady flood of a higher
  priority does starve a lower one: that is what a priority is for, and ageing would only hide which of them is served.
- The choices of one prompt compute it once: while one of them does, the others wait, and only they may be overtaken;
  then they own its full blocks too and compute the rest of at most one block themselves.
"""

import time
from bisect import insort
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
    """Tokens `start` to `start + count` of one request; `samples` where nothing is left to compute after them."""

    request: Request
    start: int
    count: int
    samples: bool

    @property
    def end(self) -> int:
        """Number of computed tokens once this chunk is."""
        return self.start + self.count


Plan = tuple[Chunk, ...]


class Scheduler:
    """The requests, waiting and running, both in the order of their turn."""

    def __init__(self, limits: Limits, pool: BlockPool) -> None:
        self.limits = limits
        self.pool = pool
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.preemptions = 0
        self.prefix_queries = 0
        self.prefix_hits = 0

    def add(self, request: Request) -> None:
        """Let a request wait for its turn."""
        insort(self.waiting, request, key=_order)

    def remove(self, request: Request) -> None:
        """Free what a request owns, wherever it stands: it has ended, or nobody wants it any more.

        A step that is launched may still write to its blocks. Whoever gets them next writes in a later step, and the
        device runs the steps in order.
        """
        if request in self.running:
            self._stop(request)
        else:
            self.waiting.remove(request)

    def schedule(self) -> Plan:
        """Choose the next step's chunks; streams come first. Empty only when nothing can be computed."""
        step = _Step(self.limits.max_tokens)
        for request in [r for r in self.running if r.uncomputed == 1]:
            self._continue(request, 1, step)
        if step.planned:
            step.budget = min(step.budget, self.limits.max_prompt_tokens_beside_streams)
        for request in [r for r in self.running if r.uncomputed > 1]:
            self._continue(request, step.budget, step)
        if not step.preempted:
            self._admit(step)
        return step.plan()

    def advance(self, plan: Plan) -> None:
        """Take note that the plan is launched: its tokens count as computed, and the tokens it samples as in flight."""
        for chunk in plan:
            chunk.request.computed = chunk.end
            chunk.request.in_flight += chunk.samples
            self._publish(chunk.request)

    def _continue(self, request: Request, most: int, step: "_Step") -> None:
        """Plan up to `most` tokens of a running request; make room by preempting later ones, itself in the end."""
        count = min(request.uncomputed, most)
        while count and request in self.running:
            if self.pool.grow(request.table, request.computed + count):
                step.take(request, count)
                return
            self._preempt(self.running[-1], step)

    def _preempt(self, request: Request, step: "_Step") -> None:
        self._stop(request)
        request.computed = 0
        step.forget(request)
        self.add(request)
        self.preemptions += 1

    def _stop(self, request: Request) -> None:
        self.running.remove(request)
        request.prompt.running.remove(request)
        self._publish(request)
        self.pool.release(request.table)

    def _publish(self, request: Request) -> None:
        # A block that ends with a token in flight has no key yet: it is published a step later.
        self.pool.publish(request.table, request.token_ids, min(request.computed, len(request.token_ids)))

    def _admit(self, step: "_Step") -> None:
        # What running requests have still to take, and one block for each to grow into: giving these away would only
        # preempt the newcomer a few steps later.
        promised = sum(self._missing(request) + 1 for request in self.running)
        for request in tuple(self.waiting):
            if len(self.running) >= self.limits.max_num_seqs or not step.budget:
                return
            if self._is_computed_by_a_sibling(request):
                continue
            hits = self._reuse(request)
            if self._missing(request) > self.pool.free - promised and self.running:
                self.pool.release(request.table)
                return
            self._start(request, hits)
            self._continue(request, step.budget, step)
            promised += self._missing(request) + 1

    def _start(self, request: Request, hits: int) -> None:
        self.waiting.remove(request)
        insort(self.running, request, key=_order)
        prompt = request.prompt
        prompt.running.append(request)
        request.computed = hits
        request.times.admitted = request.times.admitted or time.perf_counter()
        if prompt.cached_tokens is None:
            prompt.cached_tokens = hits
            self.prefix_queries += len(prompt.ids)
            self.prefix_hits += hits

    def _is_computed_by_a_sibling(self, request: Request) -> bool:
        """Say whether to wait for a prompt that another choice has not yet computed as far as it can be shared."""
        running = request.prompt.running
        if not running:
            return False
        return not request.reusable or max(choice.computed for choice in running) < self._shareable(request)

    def _reuse(self, request: Request) -> int:
        """Let a request own the blocks that hold its first tokens; return how many tokens those are."""
        if not request.reusable:
            return 0
        hits = self.pool.reuse(request.table, request.token_ids)
        shareable = self._shareable(request)
        if hits < shareable and request.prompt.running:
            self.pool.release(request.table)
            furthest = max(request.prompt.running, key=lambda choice: choice.computed)
            hits = self.pool.share(request.table, furthest.table, shareable)
        return hits

    def _shareable(self, request: Request) -> int:
        """Count the tokens in the prompt's full blocks; the last token is left out, because its logits are wanted."""
        return (len(request.prompt.ids) - 1) // self.pool.block_size * self.pool.block_size

    def _missing(self, request: Request) -> int:
        return self.pool.blocks_for(request.length) - len(request.table.blocks)


def _order(request: Request) -> tuple[int, int]:
    return request.order


class _Step:
    """A plan in the making."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.planned: dict[Request, int] = {}
        self.preempted = False

    def take(self, request: Request, count: int) -> None:
        self.planned[request] = count
        self.budget -= count

    def forget(self, request: Request) -> None:
        self.budget += self.planned.pop(request, 0)
        self.preempted = True

    def plan(self) -> Plan:
        return tuple(
            Chunk(request, request.computed, count, samples=request.computed + count == request.length)
            for request, count in self.planned.items()
        )
