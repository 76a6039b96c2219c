"""The scheduler alone: a model that writes each sequence's length takes the place of the real one."""

import itertools
from collections import Counter

from wenxin_runtime.engine.kv_blocks import BlockPools, BlockTable
from wenxin_runtime.engine.request import Prompt, Request
from wenxin_runtime.engine.scheduler import Limits, Plan, Scheduler
from wenxin_runtime.ipc import SamplingParams

ARRIVALS = itertools.count()


def request(name: str, prompt: int, answer: int = 4, *, first_token: int = 0, priority: int = 0) -> Request:
    return choices(name, prompt=prompt, answer=answer, first_token=first_token, priority=priority)[0]


def choices(*names: str, prompt: int, answer: int = 4, first_token: int = 0, priority: int = 0) -> list[Request]:
    """The choices of one prompt."""
    shared = Prompt(tuple(range(first_token, first_token + prompt)))
    params = SamplingParams(max_tokens=answer)
    return [
        Request(name, shared, params, 0, (), prompt + answer, BlockTable(), order=(priority, next(ARRIVALS)))
        for name in names
    ]


def scheduler(
    *,
    blocks: int = 100,
    block_size: int = 4,
    slots: int = 8,
    budget: int = 64,
    beside: int = 64,
    caching: bool = False,
    groups: int = 1,
) -> Scheduler:
    return Scheduler(Limits(slots, budget, beside), BlockPools(groups, blocks, block_size, prefix_caching=caching))


def step(s: Scheduler) -> Plan:
    """Schedule and commit; every request that has caught up gets a token or, at its limit, ends."""
    plan = s.schedule()
    assert sum(chunk.count for chunk in plan) <= s.limits.max_tokens
    assert len({chunk.request for chunk in plan}) == len(plan) <= s.limits.max_num_seqs
    for chunk in plan:
        assert chunk.count > 0
        assert len(chunk.request.table.blocks) >= s.pools[0].blocks_for(chunk.end)
    s.advance(plan)
    for chunk in plan:
        if chunk.samples:
            chunk.request.in_flight -= 1
            chunk.request.token_ids.append(len(chunk.request.token_ids))
            if chunk.request.finish_reason():
                s.remove(chunk.request)
    check_blocks(s)
    return plan


def check_blocks(s: Scheduler) -> None:
    for group, pool in enumerate(s.pools):
        held = Counter(block for r in [*s.running, *s.waiting] if r.group == group for block in r.table.blocks)
        assert pool.owned + pool.free == pool.total
        assert [held[block] for block in range(pool.total)] == pool._owners


def names(plan: Plan) -> dict[str, int]:
    return {chunk.request.request_id: chunk.count for chunk in plan}
