from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from wenxin_runtime.engine import kv_blocks
from wenxin_runtime.engine.kv_blocks import BlockPool, BlockTable

SIZE = 4


def filled(pool: BlockPool, token_ids: list[int], salt: str = "") -> BlockTable:
    """A table whose tokens are all computed."""
    table = BlockTable(salt)
    computed = pool.reuse(table, token_ids)
    assert computed < len(token_ids)
    assert pool.grow(table, len(token_ids))
    pool.publish(table, token_ids, len(token_ids))
    return table


def test_a_second_sequence_owns_the_full_blocks_of_a_common_prefix():
    pool = BlockPool(10, SIZE)
    first = filled(pool, list(range(10)))
    second = BlockTable()
    assert pool.reuse(second, [*range(8), 77, 78]) == 8
    assert second.blocks == first.blocks[:2]
    assert pool.owned == 3


def test_the_last_token_is_always_left_to_compute():
    pool = BlockPool(10, SIZE)
    filled(pool, list(range(8)))
    assert pool.reuse(BlockTable(), list(range(8))) == 4


def test_a_block_after_a_different_beginning_is_no_hit():
    pool = BlockPool(10, SIZE)
    filled(pool, [1, 1, 1, 1, 2, 2, 2, 2, 3])
    assert pool.reuse(BlockTable(), [9, 9, 9, 9, 2, 2, 2, 2, 3]) == 0


def test_another_salt_shares_nothing():
    pool = BlockPool(10, SIZE)
    filled(pool, list(range(9)), salt="tenant a")
    assert pool.reuse(BlockTable("tenant b"), list(range(9))) == 0
    assert pool.reuse(BlockTable("tenant a"), list(range(9))) == 8


def test_a_colliding_key_is_a_miss_and_never_another_sequences_text(monkeypatch):
    monkeypatch.setattr(kv_blocks, "_chain", lambda *_: b"the same for everything")
    pool = BlockPool(10, SIZE)
    filled(pool, list(range(9)))
    assert pool.reuse(BlockTable(), list(range(50, 59))) == 0
    assert pool.reuse(BlockTable(), list(range(9))) == 4  # the second block's key was taken by the first


def test_a_freed_prefix_is_found_again_until_its_blocks_are_needed():
    pool = BlockPool(4, SIZE)
    pool.release(filled(pool, list(range(9))))
    assert pool.free == 4
    again = BlockTable()
    assert pool.reuse(again, list(range(9))) == 8
    pool.release(again)
    other = filled(pool, list(range(100, 112)))
    assert len(other.blocks) == 3
    assert pool.reuse(BlockTable(), list(range(9))) == 4  # its tail went first


def test_the_longest_unused_prefix_is_given_up_first():
    pool = BlockPool(4, SIZE)
    old, young = list(range(5)), list(range(50, 55))
    pool.release(filled(pool, old))
    pool.release(filled(pool, young))
    assert pool.grow(BlockTable(), 3 * SIZE)
    assert pool.reuse(BlockTable(), old) == 0
    assert pool.reuse(BlockTable(), young) == 4


def test_growing_beyond_the_pool_changes_nothing():
    pool = BlockPool(3, SIZE)
    table = BlockTable()
    assert pool.grow(table, 5)
    held = list(table.blocks)
    assert not pool.grow(table, 13)
    assert (list(table.blocks), pool.free) == (held, 1)


def test_without_prefix_caching_nothing_is_found():
    pool = BlockPool(10, SIZE, prefix_caching=False)
    filled(pool, list(range(9)))
    assert pool.reuse(BlockTable(), list(range(9))) == 0


class Accounting(RuleBasedStateMachine):
    """Whatever sequences do, every block is owned or free, and owned by exactly those whose tables hold it."""

    tables = Bundle("tables")

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(9, 2)
        self.held: list[tuple[BlockTable, list[int]]] = []

    # Few different tokens, so that prefixes meet.
    @rule(target=tables, token_ids=st.lists(st.integers(0, 1), min_size=1, max_size=9), salt=st.sampled_from("ab"))
    def admit(self, token_ids, salt):
        entry = (BlockTable(salt), token_ids)
        foreseen = self.pool.hits(*entry)
        assert self.pool.reuse(*entry) == foreseen
        self.held.append(entry)
        return entry

    @rule(entry=tables, more=st.lists(st.integers(0, 1), max_size=3))
    def compute(self, entry, more):
        table, token_ids = entry
        token_ids += more
        if entry in self.held and self.pool.grow(table, len(token_ids)):
            self.pool.publish(table, token_ids, len(token_ids))

    @rule(entry=consumes(tables))
    def release(self, entry):
        self.held.remove(entry)
        self.pool.release(entry[0])

    @invariant()
    def every_block_is_owned_or_free(self):
        owners = Counter(block for table, _ in self.held for block in table.blocks)
        assert self.pool.owned + self.pool.free == self.pool.total
        assert self.pool.owned == len(owners)
        assert [owners[block] for block in range(self.pool.total)] == self.pool._owners

    @invariant()
    def what_is_found_holds_the_tokens_that_were_asked_for(self):
        assert self.pool.findable <= self.pool.total
        for key, block in self.pool._by_key.items():
            assert self.pool._content[block].key == key


Accounting.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAccounting = Accounting.TestCase
