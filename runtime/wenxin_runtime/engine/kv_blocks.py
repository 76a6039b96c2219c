"""Who owns which block of the KV cache. Plain Python, no tensors.

A block holds the keys and values of `block_size` consecutive tokens of one sequence. It is owned by as many sequences
as share it, or free; owned + free = total always. A full block whose tokens are computed is published under a key that
chains over everything before it, so a later sequence with the same prefix (and the same salt) owns it too and computes
nothing. A free block stays findable until it is taken for something else, the longest unused first.

Each data-parallel group has a cache, and so a pool, of its own; a block's number means something in its group only.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(slots=True, eq=False)
class BlockTable:
    """One sequence's blocks, in order, and the keys of its full blocks as far as they have been needed.

    `salt` separates tenants: equal prefixes under different salts share nothing. `blocks` are int32, so that a step's
    tables are copies of memory. They lie in the cache of data-parallel group `group`, set while there are none.
    """

    salt: str = ""
    group: int = 0
    blocks: "array[int]" = field(default_factory=lambda: array("i"))
    keys: list[bytes] = field(default_factory=list)
    published: int = 0


class _Content(NamedTuple):
    """What a findable block holds. `parent` and `tokens` are compared on a hit: a key's collision is a miss."""

    key: bytes
    parent: bytes
    tokens: tuple[int, ...]


class BlockPool:
    """All blocks of one KV cache, numbered from 0."""

    def __init__(self, total: int, block_size: int, *, prefix_caching: bool = True) -> None:
        self.total = total
        self.block_size = block_size
        self._prefix_caching = prefix_caching
        self._owners = [0] * total
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(total))  # least recently used first
        self._content: list[_Content | None] = [None] * total
        self._by_key: dict[bytes, int] = {}

    @property
    def free(self) -> int:
        """Blocks that no sequence owns."""
        return len(self._free)

    @property
    def owned(self) -> int:
        """Blocks that at least one sequence owns."""
        return self.total - len(self._free)

    @property
    def findable(self) -> int:
        """Blocks that hold a known prefix, owned or free."""
        return len(self._by_key)

    def blocks_for(self, tokens: int) -> int:
        """Say how many blocks `tokens` tokens fill."""
        return -(-tokens // self.block_size)

    def reuse(self, table: BlockTable, token_ids: Sequence[int]) -> int:
        """Give an empty table the published blocks of the longest known prefix of `token_ids`.

        At least the last token is left to compute: its logits are wanted.

        Returns:
            The number of tokens that need not be computed.
        """
        for block in self._known(table, token_ids):
            self._own(block)
            table.blocks.append(block)
        table.published = len(table.blocks)
        return len(table.blocks) * self.block_size

    def hits(self, table: BlockTable, token_ids: Sequence[int]) -> int:
        """Say what `reuse` would return, and change nothing."""
        return sum(self.block_size for _ in self._known(table, token_ids))

    def share(self, table: BlockTable, source: BlockTable, tokens: int) -> int:
        """Give an empty table the full blocks of the first `tokens` tokens of `source`, which has them computed.

        Returns:
            The number of tokens in them. What is written next goes into the table's own blocks.
        """
        count = tokens // self.block_size
        for block in source.blocks[:count]:
            self._own(block)
        table.blocks.extend(source.blocks[:count])
        table.keys[:] = source.keys[:count]
        table.published = min(source.published, count)
        return count * self.block_size

    def grow(self, table: BlockTable, tokens: int) -> bool:
        """Give the table room for `tokens` tokens in all; False, and nothing changed, when too few blocks are free."""
        wanted = self.blocks_for(tokens) - len(table.blocks)
        if wanted > len(self._free):
            return False
        for _ in range(wanted):
            block, _ = self._free.popitem(last=False)
            self._forget(block)
            self._owners[block] = 1
            table.blocks.append(block)
        return True

    def publish(self, table: BlockTable, token_ids: Sequence[int], computed: int) -> None:
        """Make the table's full blocks findable, as far as `computed` tokens of `token_ids` reach."""
        if not self._prefix_caching:
            return
        for index in range(table.published, computed // self.block_size):
            key, block = self._key(table, index, token_ids), table.blocks[index]
            if key not in self._by_key:  # else an equal block was published first; this one stays private
                parent = table.keys[index - 1] if index else _root(table.salt)
                self._content[block] = _Content(key, parent, self._slice(token_ids, index))
                self._by_key[key] = block
            table.published = index + 1

    def release(self, table: BlockTable) -> None:
        """Take all blocks from the table. Its last blocks are reused first: a prefix outlives what follows it."""
        for block in reversed(table.blocks):
            self._owners[block] -= 1
            if not self._owners[block]:
                self._free[block] = None
                if self._content[block] is None:
                    self._free.move_to_end(block, last=False)  # nothing to find in it: the first to be reused
        del table.blocks[:]
        table.published = 0

    def _known(self, table: BlockTable, token_ids: Sequence[int]) -> Iterator[int]:
        """Find the blocks of the longest known prefix that leaves a token to compute."""
        if not self._prefix_caching:
            return
        for index in range((len(token_ids) - 1) // self.block_size):
            block = self._find(table, index, token_ids)
            if block is None:
                return
            yield block

    def _find(self, table: BlockTable, index: int, token_ids: Sequence[int]) -> int | None:
        block = self._by_key.get(self._key(table, index, token_ids))
        if block is None:
            return None
        content = self._content[block]
        parent = table.keys[index - 1] if index else _root(table.salt)
        same = content is not None and content.parent == parent and content.tokens == self._slice(token_ids, index)
        return block if same else None

    def _own(self, block: int) -> None:
        if not self._owners[block]:
            del self._free[block]
        self._owners[block] += 1

    def _forget(self, block: int) -> None:
        content = self._content[block]
        if content is not None:
            del self._by_key[content.key]
            self._content[block] = None

    def _key(self, table: BlockTable, index: int, token_ids: Sequence[int]) -> bytes:
        """Give the key of block `index`; `token_ids` only ever grows, so keys are kept."""
        while len(table.keys) <= index:
            parent = table.keys[-1] if table.keys else _root(table.salt)
            table.keys.append(_chain(parent, self._slice(token_ids, len(table.keys))))
        return table.keys[index]

    def _slice(self, token_ids: Sequence[int], index: int) -> tuple[int, ...]:
        return tuple(token_ids[index * self.block_size : (index + 1) * self.block_size])


class BlockPools:
    """The pools of all data-parallel groups, equally large, by the group's number."""

    def __init__(self, groups: int, total: int, block_size: int, *, prefix_caching: bool = True) -> None:
        """Make `groups` pools of `total` blocks each."""
        self.block_size = block_size
        self._pools = tuple(BlockPool(total, block_size, prefix_caching=prefix_caching) for _ in range(groups))

    def __getitem__(self, group: int) -> BlockPool:
        return self._pools[group]

    def __iter__(self) -> Iterator[BlockPool]:
        return iter(self._pools)

    def __len__(self) -> int:
        return len(self._pools)

    @property
    def total(self) -> int:
        """Blocks of all groups."""
        return sum(pool.total for pool in self)

    @property
    def free(self) -> int:
        """Blocks that no sequence owns, of all groups."""
        return sum(pool.free for pool in self)

    @property
    def owned(self) -> int:
        """Blocks that at least one sequence owns, of all groups."""
        return sum(pool.owned for pool in self)


def _root(salt: str) -> bytes:
    return hashlib.blake2b(salt.encode(), digest_size=16).digest()


def _chain(parent: bytes, tokens: tuple[int, ...]) -> bytes:
    return hashlib.blake2b(parent + array("q", tokens).tobytes(), digest_size=16).digest()
