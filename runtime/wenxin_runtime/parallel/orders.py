"""What the leading rank tells the others: msgspec structs over one ZeroMQ PUSH socket per follower.

Only sizes and counts travel here; the tensors of a step go by one broadcast between the devices.
"""

import msgspec


class Budget(msgspec.Struct, frozen=True, tag=True):
    """Say what your device has left for a KV cache, and learn the least of all ranks' answers.

    `step_bytes` is what the largest step took on the leader.
    """

    step_bytes: int


class Allocate(msgspec.Struct, frozen=True, tag=True):
    """Drop the KV cache that you have and make another; see `Loaded.with_cache`."""

    blocks: int
    replays: int | None


class Forward(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Receive a step's tensors and compute its hidden states.

    `most_blocks` is the width of the block tables; each span is (start, count, length) of a sequence. Where there are
    several data-parallel groups, `parts` has (group, wanted) of each; see `Span`.
    """

    rows: int
    most_blocks: int
    spans: tuple[tuple[int, int, int], ...]
    parts: tuple[tuple[int, int], ...] = ()


class Score(msgspec.Struct, frozen=True, tag=True):
    """Receive so many rows of hidden states and score the vocabulary."""

    rows: int


class Measure(msgspec.Struct, frozen=True, tag=True):
    """Add up over the ranks what the experts were asked, and begin anew; see `Balance.measure`."""


class Prepare(msgspec.Struct, frozen=True, tag=True):
    """Begin to read a layer's copies of experts: for each rank the experts in its places; see `Placement`."""

    layer: int
    copies: tuple[tuple[int, ...], ...]


class Switch(msgspec.Struct, frozen=True, tag=True):
    """Use the copies that were prepared, if every rank has read its own; see `Balance.switch`."""


class Stop(msgspec.Struct, frozen=True, tag=True):
    """End."""


Order = Budget | Allocate | Forward | Score | Measure | Prepare | Switch | Stop

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Order).decode
