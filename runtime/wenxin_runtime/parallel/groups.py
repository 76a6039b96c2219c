"""Data-parallel groups: a step's rows belong to several of them, and each computes its own beside the others.

A step is the same for all ranks: rows and sequences stand group by group, and every rank's host knows how many each
group has. A rank computes its group's on its own cache. The rows that are wanted behind the model then come together on
the leading rank, from the first rank of each group: all ranks of a group have the same hidden states.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from wenxin_runtime.engine.runner import Model
from wenxin_runtime.engine.transfer import to_device
from wenxin_runtime.layers.attention import AttentionInput, Span
from wenxin_runtime.parallel.ranks import Mesh


class GroupedModel:
    """A rank's model, called with the steps of all groups; implements `Model`.

    Every rank of the world makes the same calls.
    """

    def __init__(self, model: Model, mesh: Mesh) -> None:
        self._model = model
        self._mesh = mesh

    def __call__(self, token_ids: Tensor, positions: Tensor, kv_cache: Tensor, step: AttentionInput) -> Tensor:
        """Compute this group's rows, which may be none, filling its cache.

        Returns:
            On the leading rank hidden states [rows, hidden], of which only those that are wanted mean something.
        """
        rows, attention = part_of(step, self._mesh.group)
        hidden = self._model(_cut(token_ids, rows), _cut(positions, rows), kv_cache, attention)
        if not any(span.wanted for span in step.spans if span.group):
            return hidden  # the leader has them, and its group's rows are the first
        return self._brought_together(hidden, attention.spans, step.spans)

    def logits(self, hidden: Tensor) -> Tensor:
        """Score the vocabulary as the model does."""
        return self._model.logits(hidden)

    def _brought_together(self, hidden: Tensor, mine: Sequence[Span], everybodys: Sequence[Span]) -> Tensor:
        mesh = self._mesh
        sends, receives = [0] * mesh.world.size, [0] * mesh.world.size
        if mesh.tensor.rank == 0:
            sends[0] = sum(span.wanted for span in mine)
        if mesh.world.rank == 0:
            for span in everybodys:
                receives[span.group * mesh.tensor.size] += span.wanted
        here = _wanted(hidden, mine) if sends[0] else hidden[:0]
        found = mesh.world.exchange(here, sends, receives)
        return found if mesh.world.rank else _at_their_rows(found, everybodys)


def part_of(step: AttentionInput, group: int) -> tuple[slice, AttentionInput]:
    """Cut out of a step of all groups what one of them computes, its rows counted from 0.

    Returns:
        Which of the step's rows those are, and what attention has to know about them.
    """
    first = sum(span.group < group for span in step.spans)
    spans = [span for span in step.spans if span.group == group]
    last = first + len(spans)
    begin = _end(step.spans[:first])
    rows = slice(begin, begin + sum(span.count for span in spans))
    return rows, AttentionInput(
        slots=_cut(step.slots, rows),
        starts=_cut(step.starts, slice(first, last + 1)) - begin,
        lengths=_cut(step.lengths, slice(first, last)),
        block_tables=_cut(step.block_tables, slice(first, last)),
        spans=tuple(Span(span.start - begin, span.count, span.length, group, span.wanted) for span in spans),
    )


def _cut(x: Tensor, part: slice) -> Tensor:
    """Take some of a tensor's rows, at an aligned address: Triton compiles a kernel anew for every other."""
    return x[part].clone() if part.start else x[part]


def _wanted(hidden: Tensor, spans: Sequence[Span]) -> Tensor:
    if all(span.wanted == span.count for span in spans):  # as in every decode step
        return hidden
    return hidden[_wanted_rows(spans, hidden.device)]


def _at_their_rows(found: Tensor, spans: Sequence[Span]) -> Tensor:
    """Put the wanted rows back to where they stand in the step."""
    rows = _end(spans)
    if len(found) == rows:
        return found
    hidden = found.new_zeros(rows, found.shape[1])
    return hidden.index_copy_(0, _wanted_rows(spans, found.device), found)


def _end(spans: Sequence[Span]) -> int:
    return spans[-1].start + spans[-1].count if spans else 0


def _wanted_rows(spans: Sequence[Span], device: torch.device) -> Tensor:
    ends = [(span.start + span.count, span.wanted) for span in spans]
    return to_device([row for end, wanted in ends for row in range(end - wanted, end)], torch.int64, device)
