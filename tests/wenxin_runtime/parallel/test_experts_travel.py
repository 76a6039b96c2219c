"""Mixtures of experts on ranks that have different rows, each rank a thread: the parts together are the whole."""

import functools
import threading

import pytest
import torch

from tests.wenxin_runtime.models import peer
from tests.wenxin_runtime.parallel.meeting import on_ranks
from wenxin_runtime.kernels.reference import ReferenceKernels
from wenxin_runtime.models.builder import Builder
from wenxin_runtime.models.ernie45_moe import Mixture, read_expert
from wenxin_runtime.parallel.balance import Balance
from wenxin_runtime.parallel.placement import Placement, Slots, place
from wenxin_runtime.parallel.ranks import ALONE, Mesh
from wenxin_runtime.parallel.sharding import Shard
from wenxin_runtime.weights.checkpoint import Checkpoint, open_checkpoint
from wenxin_runtime.weights.loading import CheckpointSource, Rereading

CPU = torch.device("cpu")
LAYER = 2
HIDDEN, EXPERTS, TOP_K = 48, 8, 3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Checkpoint:
    directory = tmp_path_factory.mktemp("moe")
    peer.make_moe(directory, use_bias=True)
    return open_checkpoint(directory)


def mixture(checkpoint: Checkpoint, mesh: Mesh, dtype: torch.dtype, copies: int = 0) -> tuple[Mixture, Balance]:
    shard = Shard(checkpoint.config, mesh.tensor.rank, mesh.tensor.size, True, mesh.group, mesh.groups)
    source = CheckpointSource(checkpoint, CPU, dtype, shard=shard)
    read = functools.partial(read_expert, Rereading(checkpoint, dtype))
    balance = Balance(Slots(EXPERTS, mesh.world.size, copies), [LAYER], mesh, CPU, read)
    builder = Builder(checkpoint.config, source, ReferenceKernels(), mesh, balance)
    return Mixture(builder, checkpoint.config.moe, LAYER), balance


def whole(checkpoint: Checkpoint, x: torch.Tensor) -> torch.Tensor:
    builder = Builder(checkpoint.config, CheckpointSource(checkpoint, CPU, x.dtype), ReferenceKernels(), ALONE)
    return Mixture(builder, checkpoint.config.moe, LAYER)(x)


def groups_rows(rows: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    torch.manual_seed(sum(rows))
    return [torch.randn(count, HIDDEN).to(dtype) for count in rows]


@pytest.mark.parametrize(
    ("rows", "tensor"), [((5, 7), 1), ((1, 1), 2), ((0, 3), 2), ((0, 1), 1), ((0, 0), 1), ((40, 3, 0, 1), 2)], ids=str
)
def test_groups_with_any_number_of_rows_get_what_one_process_computes(checkpoint, rows, tensor):
    inputs = groups_rows(rows)

    def work(mesh: Mesh) -> torch.Tensor:
        layer, _ = mixture(checkpoint, mesh, torch.float32)
        return mesh.tensor.sum_(layer(inputs[mesh.group]))

    found = on_ranks(len(rows), tensor, work)
    for rank, x in enumerate(inputs):
        for answer in found[rank * tensor : (rank + 1) * tensor]:
            torch.testing.assert_close(answer, whole(checkpoint, x), atol=1e-5, rtol=1e-5)


def test_bfloat16_rows_err_by_no_more_than_roundings_of_their_parts(checkpoint):
    inputs = groups_rows((9, 14), torch.bfloat16)

    def work(mesh: Mesh) -> torch.Tensor:
        return mesh.tensor.sum_(mixture(checkpoint, mesh, torch.bfloat16)[0](inputs[mesh.group]))

    for answer, x in zip(on_ranks(2, 1, work), inputs, strict=True):
        assert answer.dtype == torch.bfloat16
        exact = whole(checkpoint, x)
        assert (answer - exact).abs().max() <= 2**-7 * exact.abs().max()


def test_equal_rows_get_equal_bits_again(checkpoint):
    inputs = groups_rows((13, 6))

    def work(mesh: Mesh) -> list[torch.Tensor]:
        layer, _ = mixture(checkpoint, mesh, torch.float32)
        return [layer(inputs[mesh.group]) for _ in range(3)]

    for first, *others in on_ranks(2, 1, work):
        assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize(("groups", "tensor"), [(1, 2), (1, 4), (2, 2), (4, 1)])
def test_copies_take_a_share_and_answer_as_the_experts_do(checkpoint, groups, tensor):
    inputs = groups_rows((23, 9, 0, 17)[:groups])

    def work(mesh: Mesh) -> tuple[torch.Tensor, list[int], list[int], Placement]:
        layer, balance = mixture(checkpoint, mesh, torch.float32, copies=2)
        layer(inputs[mesh.group])
        before = balance.measure()[0].tolist()
        now = balance.placement(LAYER)
        balance.prepare(LAYER, place(now.expert_loads(before), now).copies)
        assert switched(balance)
        answer = mesh.tensor.sum_(layer(inputs[mesh.group]))
        return answer, before, balance.measure()[0].tolist(), balance.placement(LAYER)

    results = on_ranks(groups, tensor, work)
    for rank, (answer, before, after, placement) in enumerate(results):
        torch.testing.assert_close(answer, whole(checkpoint, inputs[rank // tensor]), atol=1e-5, rtol=1e-5)
        alone = Placement.without_copies(placement.slots)
        assert placement != alone
        assert placement.expert_loads(after) == alone.expert_loads(before)
        assert sum(after) == TOP_K * sum(map(len, inputs))
        per_rank = placement.slots.per_rank
        assert busiest(after, per_rank) < busiest(before, per_rank)


def switched(balance: Balance) -> bool:
    """Wait for all ranks to have read their part."""
    for _ in range(10_000):
        if (done := balance.switch()) is not None:
            return done
        threading.Event().wait(0.001)
    raise AssertionError("a rank goes on reading")


def busiest(slot_loads: list[int], per_rank: int) -> int:
    return max(sum(slot_loads[i : i + per_rank]) for i in range(0, len(slot_loads), per_rank))


def test_a_row_goes_once_to_each_rank_that_computes_for_it(checkpoint):
    """Ten rows with three experts over two ranks: no more than ten of them come to the other rank and back."""
    inputs = groups_rows((10, 0))

    def work(mesh: Mesh) -> int:
        mixture(checkpoint, mesh, torch.float32)[0](inputs[mesh.group])
        return mesh.world.bytes_received

    counts, letter, answer = 8, HIDDEN * 4 + TOP_K * (4 + 4), HIDDEN * 4
    asking, answering = on_ranks(2, 1, work)
    assert asking <= counts + 10 * answer
    assert answering <= counts + 10 * letter


def test_a_copy_that_one_rank_cannot_read_leaves_all_ranks_as_they_were(checkpoint, caplog):
    (x,) = groups_rows((12,))

    def work(mesh: Mesh) -> tuple[bool, torch.Tensor]:
        layer, balance = mixture(checkpoint, mesh, torch.float32, copies=1)
        if mesh.world.rank == 1:
            balance._read = unreadable
        now = balance.placement(LAYER)
        balance.prepare(LAYER, ((4,), (0,)))
        return switched(balance) or balance.placement(LAYER) != now, mesh.tensor.sum_(layer(x))

    for changed, answer in on_ranks(1, 2, work):
        assert not changed
        torch.testing.assert_close(answer, whole(checkpoint, x), atol=1e-5, rtol=1e-5)
    assert "layer 2: its copies of experts cannot be read: the volume is gone" in caplog.text


def unreadable(_layer: int, _expert: int) -> tuple[torch.Tensor, torch.Tensor]:
    raise OSError("the volume is gone")
