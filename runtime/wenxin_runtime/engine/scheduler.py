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

With data parallelism the groups have a cache each, and a step is as slow as its fullest group. So, besides:

- A request goes where it makes the least work, and stays there while it runs: a known prefix counts against what the
  group has still to compute. The choices of one prompt are in one group. A preempted request may go to another.
- Blocks run out in one group at a time: there the last in order gives way. The others admit as always.
- Groups with prompts to compute share the budget for prompts: each is filled up to the same level.
"""

import time
from bisect import insort
from collections.abc import Collection
from dataclasses import dataclass

from wenxin_runtime.engine.kv_blocks import BlockPool, BlockPools
from wenxin_runtime.engine.request import Request

# Tokens that an answer is taken to be long when the work of groups is compared: a running sequence weighs as many.
# Without it a prefix that everybody shares would draw everybody to the group that had it first.
_ANSWER_TOKENS = 256


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
"""The chunks of one step, group by group."""


class Scheduler:
    """The requests, waiting and running, both in the order of their turn."""

    def __init__(self, limits: Limits, pools: BlockPools) -> None:
        self.limits = limits
        self.pools = pools
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.preemptions = 0
        self.prefix_queries = 0
        self.prefix_hits = 0
        # The first in line, where it found no room and nothing has happened since that makes some: looking up a long
        # prompt in the caches of all groups takes milliseconds, which steps that only decode cannot spare.
        self._refused: Request | None = None

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
        """Choose the next step's chunks; streams come first in each group. Empty only when nothing can be computed."""
        step = _Step(self.limits.max_tokens, len(self.pools))
        for request in [r for r in self.running if r.uncomputed == 1]:
            self._continue(request, 1, step)
        if step.planned:
            step.budget = min(step.budget, self.limits.max_prompt_tokens_beside_streams)
        prompts = [r for r in self.running if r.uncomputed > 1]
        prompts += self._admit(step)
        step.share_out({request.group for request in prompts})
        for request in prompts:
            self._continue(request, step.room(request.group), step)
        return step.plan()

    def advance(self, plan: Plan) -> None:
        """Take note that the plan is launched: its tokens count as computed, and the tokens it samples as in flight."""
        for chunk in plan:
            if chunk.count > 1:
                self._refused = None  # it may own this prompt's blocks
            chunk.request.computed = chunk.end
            chunk.request.in_flight += chunk.samples
            self._publish(chunk.request)

    def _continue(self, request: Request, most: int, step: "_Step") -> None:
        """Plan up to `most` tokens of a running request; make room by preempting its group's last, at last itself."""
        count = min(request.uncomputed, most)
        while count and request in self.running:
            if self._pool(request).grow(request.table, request.computed + count):
                step.take(request, count)
                return
            self._preempt(next(r for r in reversed(self.running) if r.group == request.group), step)

    def _preempt(self, request: Request, step: "_Step") -> None:
        self._stop(request)
        request.computed = 0
        step.forget(request)
        self.add(request)
        self.preemptions += 1

    def _stop(self, request: Request) -> None:
        self._refused = None
        self.running.remove(request)
        request.prompt.running.remove(request)
        self._publish(request)
        self._pool(request).release(request.table)

    def _publish(self, request: Request) -> None:
        # A block that ends with a token in flight has no key yet: it is published a step later.
        self._pool(request).publish(request.table, request.token_ids, min(request.computed, len(request.token_ids)))

    def _admit(self, step: "_Step") -> list[Request]:
        """Give slots to waiting requests while a group has fewer prompt tokens to compute than its share; list them."""
        groups = [_Group(number, pool) for number, pool in enumerate(self.pools)]
        for request in self.running:
            groups[request.group].add(self._missing(request), 0 if request in step.planned else request.uncomputed)
        share = -(-step.budget // len(groups))
        admitted: list[Request] = []
        for request in tuple(self.waiting):
            if len(self.running) >= self.limits.max_num_seqs or all(group.prompt_tokens >= share for group in groups):
                break
            if self._is_computed_by_a_sibling(request):
                continue
            if request is self._refused:
                break
            hits = self._place(request, [group for group in groups if group.number not in step.preempted])
            if hits is None:
                self._refused = None if step.preempted else request
                break
            self._start(request, hits)
            groups[request.group].add(self._missing(request), request.uncomputed)
            admitted.append(request)
        return admitted

    def _place(self, request: Request, groups: list["_Group"]) -> int | None:
        """Find the group with room for a request that has the least to compute then, and own what it knows of it.

        Returns:
            How many tokens that is; None where there is no room.
        """
        siblings = request.prompt.running
        if siblings:
            groups = [group for group in groups if group.number == siblings[0].group]
        elif len(groups) > 1:
            groups = sorted(groups, key=lambda group: (group.work - self._hits(request, group), group.fullness))
        for group in groups:
            request.table.group = group.number
            hits = self._reuse(request)
            if group.has_room(self._missing(request)):
                return hits
            group.pool.release(request.table)
        return None

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
        pool = self._pool(request)
        hits = pool.reuse(request.table, request.token_ids)
        shareable = self._shareable(request)
        if hits < shareable and request.prompt.running:
            pool.release(request.table)
            furthest = max(request.prompt.running, key=lambda choice: choice.computed)
            hits = pool.share(request.table, furthest.table, shareable)
        return hits

    def _hits(self, request: Request, group: "_Group") -> int:
        return group.pool.hits(request.table, request.token_ids) if request.reusable else 0

    def _shareable(self, request: Request) -> int:
        """Count the tokens in the prompt's full blocks; the last token is left out, because its logits are wanted."""
        return (len(request.prompt.ids) - 1) // self.pools.block_size * self.pools.block_size

    def _missing(self, request: Request) -> int:
        return self._pool(request).blocks_for(request.length) - len(request.table.blocks)

    def _pool(self, request: Request) -> BlockPool:
        return self.pools[request.group]


def _order(request: Request) -> tuple[int, int]:
    return request.order


class _Group:
    """A data-parallel group as a newcomer sees it."""

    def __init__(self, number: int, pool: BlockPool) -> None:
        self.number = number
        self.pool = pool
        self.prompt_tokens = 0
        self._running = 0
        self._promised = 0

    def add(self, missing: int, uncomputed: int) -> None:
        """Count a running request in that has still to take so many blocks, and to get so many tokens into a step."""
        self.prompt_tokens += uncomputed
        self._running += 1
        # And one block for it to grow into: giving these away would only preempt the newcomer a few steps later.
        self._promised += missing + 1

    @property
    def work(self) -> int:
        """Tokens that it has still to compute, as far as that can be said."""
        return self.prompt_tokens + self._running * _ANSWER_TOKENS

    @property
    def fullness(self) -> tuple[int, int]:
        """Blocks that are owned, then those that would be missed: decides between groups with the same work."""
        return self.pool.owned, self.pool.findable

    def has_room(self, missing: int) -> bool:
        """Say whether one more request may run that needs so many blocks."""
        return missing <= self.pool.free - self._promised or not self._running


class _Step:
    """A plan in the making."""

    def __init__(self, budget: int, groups: int) -> None:
        self.budget = budget
        self.planned: dict[Request, int] = {}
        self.preempted: set[int] = set()
        self._tokens = [0] * groups
        self._level = 0

    def take(self, request: Request, count: int) -> None:
        self.planned[request] = count
        self.budget -= count
        self._tokens[request.group] += count

    def forget(self, request: Request) -> None:
        count = self.planned.pop(request, 0)
        self.budget += count
        self._tokens[request.group] -= count
        self.preempted.add(request.group)

    def share_out(self, groups: Collection[int]) -> None:
        """Let these groups share the budget, so that all have the same number of tokens in the end."""
        if groups:
            self._level = -(-(self.budget + sum(self._tokens[group] for group in groups)) // len(groups))

    def room(self, group: int) -> int:
        """Say how many tokens a prompt of this group may have; one at least while there is budget, so it advances."""
        return min(self.budget, max(1, self._level - self._tokens[group]))

    def plan(self) -> Plan:
        chunks = (
            Chunk(request, request.computed, count, samples=request.computed + count == request.length)
            for request, count in self.planned.items()
        )
        return tuple(sorted(chunks, key=lambda chunk: chunk.request.group))
