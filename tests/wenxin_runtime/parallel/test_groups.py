"""What each data-parallel group computes of a step, with a model that is made of the step's own numbers."""

import json

import pytest
import torch

from tests.released import DENSE_300M, MOE_21B
from tests.wenxin_runtime.groups_in_turn import GroupsInTurn
from tests.wenxin_runtime.kernels.gpu.steps import make_step
from tests.wenxin_runtime.recorder import Recorder, eager
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.engine.graphs import DecodeGraphs
from wenxin_runtime.engine.loaded import may_replay
from wenxin_runtime.layers.attention import AttentionInput, Span
from wenxin_runtime.parallel.groups import part_of
from wenxin_runtime.parallel.leader import order_of, pack, packed_size, unpack
from wenxin_runtime.parallel.orders import encode
from wenxin_runtime.weights.model_config import read_model_config

BLOCK_SIZE, BLOCKS = 4, 64
# Length, rows, group, rows that are wanted.
MIXED = [(9, 9, 0, 0), (5, 1, 0, 1), (7, 3, 2, 3), (12, 4, 2, 1)]
DECODING = [(9, 1, 0, 1), (5, 1, 0, 1), (7, 1, 2, 1), (12, 1, 2, 1), (3, 1, 2, 1)]


def step_of(sequences) -> AttentionInput:
    torch.manual_seed(0)
    step, _ = make_step([(length, rows) for length, rows, _, _ in sequences], BLOCK_SIZE, torch.device("cpu"))
    spans = tuple(
        Span(span.start, span.count, span.length, group, wanted)
        for span, (_, _, group, wanted) in zip(step.spans, sequences, strict=True)
    )
    return AttentionInput(step.slots, step.starts, step.lengths, step.block_tables, spans)


def tokens_of(step: AttentionInput) -> torch.Tensor:
    return torch.arange(len(step.slots)) + 100


@pytest.mark.parametrize("sequences", [MIXED, DECODING], ids=["mixed", "decoding"])
def test_the_groups_parts_are_the_step(sequences):
    step = step_of(sequences)
    parts = [part_of(step, group) for group in range(4)]
    rows = torch.arange(len(step.slots))
    assert torch.equal(torch.cat([rows[part] for part, _ in parts]), rows)
    assert torch.equal(torch.cat([part.slots for _, part in parts]), step.slots)
    assert torch.equal(torch.cat([part.lengths for _, part in parts]), step.lengths)
    assert torch.equal(torch.cat([part.block_tables for _, part in parts]), step.block_tables)
    for _, part in parts:
        assert part.starts.tolist() == [*(span.start for span in part.spans), len(part.slots)]
        assert [span.length for span in part.spans] == part.lengths.tolist()
        assert sum(span.count for span in part.spans) == len(part.slots)
    assert [len(part.spans) for _, part in parts[1::2]] == [0, 0]


@pytest.mark.parametrize("sequences", [MIXED, DECODING, MIXED[:2], MIXED[2:]], ids=["mixed", "decoding", "0", "2"])
def test_the_leader_gets_the_rows_that_are_wanted_of_every_group(sequences):
    step = step_of(sequences)
    caches = [torch.zeros(1, BLOCKS, BLOCK_SIZE, 1) for _ in range(2)]
    together = GroupsInTurn(Recorder(), caches[0], 3)(tokens_of(step), tokens_of(step), caches[0], step)
    alone = Recorder()(tokens_of(step), tokens_of(step), caches[1], step)
    ends = [(span.start + span.count, span.wanted) for span in step.spans]
    wanted = [row for end, count in ends for row in range(end - count, end)]
    assert torch.equal(together[wanted], alone[wanted])


def test_a_step_comes_through_the_wire_whole_and_one_group_pays_nothing_for_groups():
    step = step_of(MIXED)
    order = order_of(step, len(step.slots), parts=True)
    packed = pack(tokens_of(step), tokens_of(step), step)
    assert len(packed) == packed_size(order)
    _, _, found = unpack(packed, order)
    assert found.spans == step.spans
    assert torch.equal(found.block_tables, step.block_tables)
    single = order_of(step, len(step.slots), parts=False)
    assert b"parts" not in encode(single)
    assert unpack(packed, single)[2].spans == tuple(Span(s.start, s.count, s.length) for s in step.spans)


def test_every_group_replays_the_graph_of_its_own_rows_and_none_where_it_has_none():
    model = Recorder()
    step = step_of(DECODING)
    cache = torch.zeros(1, BLOCKS, BLOCK_SIZE, 1)
    in_turn = GroupsInTurn(model, cache, 3)
    caches = [cache, *in_turn._others]
    for grouped, its_cache in zip(in_turn._groups, caches, strict=True):
        grouped._model = DecodeGraphs(model, its_cache, 8, 60, eager)
    model.steps.clear()
    found = in_turn(tokens_of(step), tokens_of(step), cache, step)
    assert [len(token_ids) for token_ids, _ in model.steps] == [4, 0, 2]  # of groups 2, 1 and 0; three rows fill four
    other = torch.zeros_like(cache)
    assert torch.equal(found, Recorder()(tokens_of(step), tokens_of(step), other, step))


@pytest.mark.parametrize(
    ("content", "flags", "replayed"),
    [
        (MOE_21B, {}, True),
        (MOE_21B, {"enforce_eager": True}, False),
        (MOE_21B, {"tensor_parallel_size": 2, "enable_expert_parallel": True}, True),
        (MOE_21B, {"data_parallel_size": 2}, True),
        (MOE_21B, {"data_parallel_size": 2, "enable_expert_parallel": True}, False),
        (DENSE_300M, {"data_parallel_size": 2}, True),
    ],
)
def test_decode_steps_are_captured_but_where_tokens_travel_between_groups(tmp_path, content, flags, replayed):
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert may_replay(RuntimeConfig(model_dir="x", **flags), read_model_config(tmp_path)) is replayed
