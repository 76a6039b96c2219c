"""What the leading rank measures and decides; the ranks are threads, each with two layers of four experts."""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch

from tests.wenxin_runtime.parallel.meeting import SECONDS, on_ranks
from wenxin_runtime.kernels.reference import ReferenceKernels
from wenxin_runtime.parallel import rebalancing
from wenxin_runtime.parallel.balance import Balance, ExpertLayer
from wenxin_runtime.parallel.orders import Measure, Order, Prepare, Switch
from wenxin_runtime.parallel.placement import Placement, Slots
from wenxin_runtime.parallel.ranks import Mesh
from wenxin_runtime.parallel.rebalancing import Rebalancing

EXPERTS, HIDDEN, RANKS, EVERY, MOST_STEPS = 4, 4, 2, 10, 20_000
LAYERS = (3, 5)
Weights = tuple[torch.Tensor, torch.Tensor]


def read(layer: int, expert: int) -> Weights:
    return torch.full((2, HIDDEN), layer + expert / 10), torch.ones(HIDDEN, 1)


@dataclass
class Leader:
    """The leading rank, its followers carrying out what it orders."""

    balance: Balance
    layers: list[ExpertLayer]
    tell: Callable[[Order], None]
    orders: list[Order] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rebalancing = Rebalancing(self.balance, self._order)

    def _order(self, order: Order) -> None:
        self.orders.append(order)
        self.tell(order)

    def asked(self, *loads: int, layer: int = 0) -> None:
        """Let each expert of a layer be chosen so many times."""
        chosen = torch.arange(EXPERTS).repeat_interleave(torch.tensor(loads))
        self.layers[layer].find(chosen[:, None])

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.rebalancing.before_step()

    def step_until(self, condition: Callable[[], bool]) -> None:
        for _ in range(MOST_STEPS):
            if condition():
                return
            self.step()
            threading.Event().wait(0.001)  # copies are read by another thread
        raise AssertionError(f"not within {MOST_STEPS} steps")

    def moves(self) -> list[Order]:
        return [order for order in self.orders if isinstance(order, Prepare)]


def lead(story: Callable[[Leader], None], *, copies: int = 1, read_here: Callable[[int, int, int], Weights]) -> None:
    """Tell a story on the first of two ranks."""
    sent: queue.Queue[Order | None] = queue.Queue()

    def work(mesh: Mesh) -> None:
        balance = Balance(
            Slots(EXPERTS, RANKS, copies), LAYERS, mesh, torch.device("cpu"),
            lambda layer, expert: read_here(mesh.world.rank, layer, expert),
        )  # fmt: skip
        layers = []
        for layer in LAYERS:
            held = [read(layer, 2 * mesh.world.rank + i % 2) for i in range(2 + copies)]
            experts = ReferenceKernels().experts([wide for wide, _ in held], [narrow for _, narrow in held])
            layers.append(balance.add(layer, experts))
        if mesh.world.rank:
            while (order := sent.get(timeout=SECONDS)) is not None:
                balance.follow(order)
            return
        try:
            story(Leader(balance, layers, sent.put))
        finally:
            sent.put(None)

    on_ranks(1, RANKS, work)


@pytest.fixture(autouse=True)
def measured_often(monkeypatch) -> None:
    monkeypatch.setattr(rebalancing, "EVERY_STEPS", EVERY)


def anywhere(_rank: int, layer: int, expert: int) -> Weights:
    return read(layer, expert)


def test_a_busy_expert_gets_a_copy_one_layer_after_the_other():
    def story(leader: Leader) -> None:
        for layer in (0, 1):
            leader.asked(100, 20, 20, 20, layer=layer)
        leader.step(EVERY)
        assert leader.orders == [Measure()]
        assert leader.rebalancing.stats.imbalance == 120 / 80
        assert leader.rebalancing.stats.rows_by_rank == (240, 80)
        leader.step_until(lambda: leader.rebalancing.stats.rebalances_total == 2)
        moves = [Prepare(3, ((2,), (0,))), Prepare(5, ((2,), (0,)))]
        assert leader.moves() == moves
        assert leader.orders.index(moves[0]) < leader.orders.index(Switch()) < leader.orders.index(moves[1])
        leader.step(2 * EVERY)
        assert leader.moves() == moves, "what helps is there already"

    lead(story, read_here=anywhere)


def test_an_imbalance_that_a_copy_would_not_lower_much_is_left_alone():
    def story(leader: Leader) -> None:
        leader.asked(104, 100, 100, 100)
        leader.step(3 * EVERY)
        assert leader.rebalancing.stats.imbalance == pytest.approx(1.0, abs=0.01)
        assert not leader.moves()

    lead(story, read_here=anywhere)


def test_a_few_rows_are_chance_and_move_nothing():
    def story(leader: Leader) -> None:
        leader.asked(60, 0, 0, 0)
        leader.step(3 * EVERY)
        assert not leader.moves()

    lead(story, read_here=anywhere)


def test_loads_that_move_are_followed():
    def story(leader: Leader) -> None:
        leader.asked(300, 20, 20, 20)
        leader.step_until(lambda: leader.rebalancing.stats.rebalances_total == 1)
        assert leader.balance.placement(3) == Placement(leader.balance.slots, ((2,), (0,)))
        for _ in range(4):
            leader.asked(20, 20, 20, 300)
            leader.step(EVERY)
        leader.step_until(lambda: leader.balance.placement(3).copies[0] == (3,))

    lead(story, read_here=anywhere)


def test_without_places_for_copies_the_load_is_only_measured():
    def story(leader: Leader) -> None:
        leader.asked(300, 0, 0, 0)
        leader.step(3 * EVERY)
        assert leader.orders == [Measure()] * 3
        assert leader.rebalancing.stats.rows_by_rank == (300, 0)

    lead(story, copies=0, read_here=anywhere)


def test_what_was_asked_while_warming_up_is_forgotten():
    def story(leader: Leader) -> None:
        leader.asked(300, 0, 0, 0)
        leader.rebalancing.forget()
        leader.step(2 * EVERY)
        assert leader.rebalancing.stats.rows_by_rank == (0, 0)
        assert leader.rebalancing.stats.imbalance == 1.0
        assert not leader.moves()

    lead(story, read_here=anywhere)


def test_steps_go_on_while_a_rank_reads():
    may_read = threading.Event()

    def read_here(rank: int, layer: int, expert: int) -> Weights:
        assert rank == 0 or may_read.wait(SECONDS)
        return read(layer, expert)

    def story(leader: Leader) -> None:
        leader.asked(300, 20, 20, 20)
        leader.step_until(lambda: leader.orders.count(Switch()) == 3)
        assert leader.rebalancing.stats.rebalances_total == 0
        assert leader.balance.placement(3) == Placement.without_copies(leader.balance.slots)
        may_read.set()
        leader.step_until(lambda: leader.rebalancing.stats.rebalances_total == 1)

    lead(story, read_here=read_here)


def test_copies_that_cannot_be_read_are_tried_again_after_the_next_measurement(caplog):
    gone = threading.Event()
    gone.set()

    def read_here(rank: int, layer: int, expert: int) -> Weights:
        if rank == 1 and gone.is_set():
            raise OSError("the volume is gone")
        return read(layer, expert)

    def story(leader: Leader) -> None:
        leader.asked(300, 20, 20, 20)
        leader.step_until(lambda: "cannot be read" in caplog.text)
        leader.step_until(lambda: leader.rebalancing._moving is None)
        assert leader.rebalancing.stats.rebalances_total == 0
        assert leader.balance.placement(3) == Placement.without_copies(leader.balance.slots)
        gone.clear()
        leader.asked(300, 20, 20, 20)
        leader.step_until(lambda: leader.rebalancing.stats.rebalances_total == 1)

    lead(story, read_here=read_here)
    assert "layer 3: its copies of experts cannot be read: the volume is gone" in caplog.text
