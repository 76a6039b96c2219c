"""Data-parallel groups of one rank each in one process: they compute one after the other, the leading one last."""

import torch

from wenxin_runtime.parallel.groups import GroupedModel
from wenxin_runtime.parallel.ranks import Alone, Mesh


class Desk(Alone):
    """A world in which all but the leader leave what they send, for the leader to find."""

    def __init__(self, rank: int, size: int, left: list) -> None:
        self.rank, self.size, self._left = rank, size, left

    def exchange(self, x, sends, receives):
        assert len(x) == sum(sends) == sends[0]
        if self.rank:
            assert not any(receives)
            self._left.insert(0, x)
            return x[:0]
        found = torch.cat([x, *self._left])
        assert receives == [len(x), *map(len, self._left)]
        self._left.clear()
        return found


class GroupsInTurn:
    """A `Model` with a cache for each group, all alike; the cache that it is called with is the leading group's."""

    def __init__(self, model, kv_cache, groups: int) -> None:
        left = []
        self._groups = [GroupedModel(model, Mesh(Desk(g, groups, left), Alone(), g, groups)) for g in range(groups)]
        self._others = [torch.zeros_like(kv_cache) for _ in range(groups - 1)]

    def __call__(self, token_ids, positions, kv_cache, step):
        spans = step.spans
        assert [span.group for span in spans] == sorted(span.group for span in spans)
        for group, cache in reversed(list(enumerate([kv_cache, *self._others]))):
            hidden = self._groups[group](token_ids, positions, cache, step)
        return hidden

    def logits(self, hidden):
        return self._groups[0].logits(hidden)
