"""Rows to the ranks that hold their experts, and what those say back: for ranks that have different rows.

A rank sends a row once to every rank that computes for it, however many of its experts that one has, and gets one
weighted sum of them back.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from wenxin_runtime.kernels import Experts, Route
from wenxin_runtime.parallel.balance import ExpertLayer
from wenxin_runtime.parallel.ranks import Mesh


class Questions(NamedTuple):
    """Rows of one rank for another, or of several for one.

    Attributes:
        x: [rows, hidden].
        slots: Which of the receiver's slots compute a row, int64 [rows, top_k]; -1 where another rank does.
        weights: Of what they say, [rows, top_k] in x's dtype.
    """

    x: Tensor
    slots: Tensor
    weights: Tensor


class Dispatch:
    """The routed experts' weighted sum, by all ranks for all of them.

    The ranks of a group have the same rows; each asks for its slice of them, so nothing is computed twice. A group may
    have none, and its ranks take part all the same, for their experts.
    """

    def __init__(self, route: Route, experts: Experts, layer: ExpertLayer, mesh: Mesh, top_k: int) -> None:
        """Take part with `experts`, this rank's slots of `layer`."""
        self._route = route
        self._experts = experts
        self._layer = layer
        self._mesh = mesh
        self._top_k = top_k

    def __call__(self, x: Tensor) -> Tensor:
        """Map the group's x [rows, hidden] to the same shape: this rank's slice, zero elsewhere."""
        tensor, rows = self._mesh.tensor, x.shape[0]
        mine = slice(rows * tensor.rank // tensor.size, rows * (tensor.rank + 1) // tensor.size)
        out = torch.zeros_like(x)
        out[mine] = self._ask(x[mine])
        return out

    def _ask(self, x: Tensor) -> Tensor:
        world, ranks = self._mesh.world, self._mesh.world.size
        chosen, weights = self._choose(x)
        owners, slots = chosen // self._layer.slots.per_rank, chosen % self._layer.slots.per_rank
        asked = (owners == torch.arange(ranks, device=x.device)[:, None, None]).any(-1)
        to, rows = asked.nonzero(as_tuple=True)  # by rank, then by row
        sends = asked.sum(1, keepdim=True)
        receives = world.exchange(sends, [1] * ranks, [1] * ranks)
        sent, received = torch.cat([sends, receives], 1).T.tolist()
        there = slots[rows].where(owners[rows] == to[:, None], -1)
        letters = world.exchange(_sealed(Questions(x[rows], there, weights[rows])), sent, received)
        answers = world.exchange(self._answer(_opened(letters, x, self._top_k)), received, sent)
        # In the order of the ranks, in float32: the same bits every time.
        total = torch.zeros(x.shape, device=x.device, dtype=torch.float32)
        for part, places in zip(torch.split(answers, sent), torch.split(rows, sent), strict=True):
            total.index_add_(0, places, part.float())
        return total.to(x.dtype)

    def _choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not len(x):
            return x.new_empty(0, self._top_k, dtype=torch.int64), x.new_empty(0, self._top_k)
        chosen, weights = self._route(x)
        return self._layer.find(chosen), weights

    def _answer(self, asked: Questions) -> Tensor:
        return self._experts(*asked) if len(asked.x) else asked.x


def _sealed(questions: Questions) -> Tensor:
    """Put everything about a row behind each other as bytes, [rows, bytes], so that it goes in one exchange."""
    parts = (questions.x, questions.weights, questions.slots.int())
    return torch.cat([part.contiguous().view(torch.uint8) for part in parts], 1)


def _opened(letters: Tensor, like: Tensor, top_k: int) -> Questions:
    """Take apart what `_sealed` made of rows like `like` [any, hidden]."""
    item = like.dtype.itemsize
    sizes = [like.shape[1] * item, top_k * item, top_k * torch.int32.itemsize]
    x, weights, slots = (part.contiguous() for part in torch.split(letters, sizes, 1))
    return Questions(x.view(like.dtype), slots.view(torch.int32).long(), weights.view(like.dtype))
