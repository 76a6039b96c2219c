"""The leading rank's model: whatever it computes, the followers compute with it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from wenxin_runtime.engine.runner import Model
from wenxin_runtime.layers.attention import AttentionInput, Span
from wenxin_runtime.parallel.orders import Forward, Order, Score, encode
from wenxin_runtime.parallel.ranks import Mesh
from wenxin_runtime.parallel.rebalancing import Rebalancing


class Followers:
    """The way to the other ranks, one `send` for each. Orders arrive whole and in order.

    Attributes:
        bytes_sent: Orders only; the tensors go another way.
    """

    def __init__(self, sends: Sequence[Callable[[bytes], object]]) -> None:
        self._sends = sends
        self.bytes_sent = 0

    def tell(self, order: Order) -> None:
        """Send an order to each."""
        content = encode(order)
        self.bytes_sent += len(content) * len(self._sends)
        for send in self._sends:
            send(content)


class LeadingModel:
    """A `Model` on several devices, as the engine sees it."""

    def __init__(self, model: Model, mesh: Mesh, followers: Followers, rebalancing: Rebalancing | None = None) -> None:
        self._model = model
        self._mesh = mesh
        self._followers = followers
        self._rebalancing = rebalancing

    def __call__(self, token_ids: Tensor, positions: Tensor, kv_cache: Tensor, step: AttentionInput) -> Tensor:
        """Compute hidden states [rows, hidden] and fill the cache, on all ranks."""
        if self._rebalancing:
            self._rebalancing.before_step()
        self._followers.tell(order_of(step, len(token_ids), parts=self._mesh.groups > 1))
        self._mesh.world.spread_(pack(token_ids, positions, step))
        return self._model(token_ids, positions, kv_cache, step)

    def logits(self, hidden: Tensor) -> Tensor:
        """Score the vocabulary: [rows, hidden] to [rows, vocab]."""
        self._followers.tell(Score(len(hidden)))
        return self._model.logits(self._mesh.world.spread_(hidden))


def order_of(step: AttentionInput, rows: int, *, parts: bool) -> Forward:
    """Put the host's view of a step into words, with the spans' groups and wanted rows where they matter."""
    return Forward(
        rows,
        step.block_tables.shape[1],
        tuple((span.start, span.count, span.length) for span in step.spans),
        tuple((span.group, span.wanted) for span in step.spans) if parts else (),
    )


def pack(token_ids: Tensor, positions: Tensor, step: AttentionInput) -> Tensor:
    """Put a step's tensors into one, int64, so that one broadcast carries them."""
    parts = (token_ids, positions, step.slots, step.starts, step.lengths, step.block_tables.flatten())
    return torch.cat([part.to(torch.int64) for part in parts])


def unpack(packed: Tensor, order: Forward) -> tuple[Tensor, Tensor, AttentionInput]:
    """Take apart what `pack` has made: token ids, positions, and what attention takes."""
    token_ids, positions, slots, starts, lengths, tables = torch.split(packed, _sizes(order))
    parts = order.parts or ((0, 0),) * len(order.spans)
    spans = tuple(Span(*span, *part) for span, part in zip(order.spans, parts, strict=True))
    tables = tables.view(len(spans), order.most_blocks).int()
    return token_ids, positions, AttentionInput(slots, starts.int(), lengths.int(), tables, spans)


def packed_size(order: Forward) -> int:
    """Count the elements of what `pack` makes of an ordered step."""
    return sum(_sizes(order))


def _sizes(order: Forward) -> list[int]:
    rows, sequences = order.rows, len(order.spans)
    return [rows, rows, rows, sequences + 1, sequences, sequences * order.most_blocks]
