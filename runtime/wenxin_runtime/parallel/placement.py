"""Which rank computes which expert of a layer, and which experts are worth a copy. Plain arithmetic, no torch.

Every rank has as many slots as every other. The first of them hold its own experts for ever, the others copies of
experts that are busy: a copy takes its share of the rows that ask for the expert. What a copy cannot do is to make a
single row faster; it evens out how many rows the ranks have.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

NOBODY = -1
"""Stands in a place for a copy that holds none."""


@dataclass(frozen=True, slots=True)
class Slots:
    """How a layer's slots are numbered: rank 0's first, on each rank its own experts first.

    Attributes:
        experts: Routed experts of a layer, a multiple of `ranks`.
        ranks: Ranks that they are spread over.
        copies: Places for copies on each rank.
    """

    experts: int
    ranks: int
    copies: int = 0

    @property
    def own(self) -> int:
        """Experts that live on each rank."""
        return self.experts // self.ranks

    @property
    def per_rank(self) -> int:
        """Slots of each rank."""
        return self.own + self.copies

    @property
    def total(self) -> int:
        """Slots of all ranks."""
        return self.ranks * self.per_rank

    @property
    def most(self) -> int:
        """The most slots that one expert can have: its own, and a copy on every other rank while there are places."""
        return 1 + min(self.ranks - 1, self.ranks * self.copies)

    def home(self, expert: int) -> int:
        """Find an expert's own slot."""
        rank, place = divmod(expert, self.own)
        return rank * self.per_rank + place


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the experts of one layer are.

    Attributes:
        slots: Their numbering.
        copies: For each rank the experts in its places for copies, NOBODY in an empty one.
    """

    slots: Slots
    copies: tuple[tuple[int, ...], ...]

    @classmethod
    def without_copies(cls, slots: Slots) -> "Placement":
        """Begin with every expert at home only."""
        return cls(slots, ((NOBODY,) * slots.copies,) * slots.ranks)

    def found_at(self) -> list[list[int]]:
        """List the slots of each expert, its own first."""
        slots = self.slots
        found = [[slots.home(expert)] for expert in range(slots.experts)]
        for rank, copies in enumerate(self.copies):
            for place, expert in enumerate(copies):
                if expert != NOBODY:
                    found[expert].append(rank * slots.per_rank + slots.own + place)
        return found

    def expert_loads(self, slot_loads: Sequence[int]) -> list[int]:
        """Add up what the slots of each expert had to do."""
        return [sum(slot_loads[slot] for slot in found) for found in self.found_at()]

    def expected_loads(self, expert_loads: Sequence[float]) -> list[float]:
        """Say what each rank would have to do, if an expert's slots shared its load evenly."""
        loads = [0.0] * self.slots.ranks
        for found, load in zip(self.found_at(), expert_loads, strict=True):
            for slot in found:
                loads[slot // self.slots.per_rank] += load / len(found)
        return loads

    def newcomers(self, before: "Placement", rank: int) -> list[tuple[int, int]]:
        """List what a rank has to read to come here from another placement: slot on this rank, and expert."""
        pairs = zip(before.copies[rank], self.copies[rank], strict=True)
        own = self.slots.own
        return [(own + place, new) for place, (old, new) in enumerate(pairs) if new not in (old, NOBODY)]


def imbalance(rank_loads: Sequence[float]) -> float:
    """Divide what the busiest rank does by the mean: 1 is even. Nothing to do is even too."""
    total = sum(rank_loads)
    return max(rank_loads) * len(rank_loads) / total if total else 1.0


def place(loads: Sequence[int], now: Placement) -> Placement:
    """Choose copies so that the busiest rank has less to do: one after the other, the one that helps most.

    A copy never stands on a rank that has the expert already. Places that no copy helps stay empty. Copies that are
    there and wanted stay where they are, for every other one has to be read.

    Args:
        loads: What each expert of the layer was asked.
        now: Where they are.
    """
    chosen = _Choice(loads, now.slots)
    while chosen.add_best():
        pass
    return replace(now, copies=tuple(map(_settled, now.copies, chosen.copies)))


class _Choice:
    """Copies as far as they are chosen."""

    def __init__(self, loads: Sequence[int], slots: Slots) -> None:
        self.copies: list[list[int]] = [[] for _ in range(slots.ranks)]
        self._places = slots.copies
        self._loads = loads
        self._holders = [[expert // slots.own] for expert in range(slots.experts)]
        self._rank_loads = Placement.without_copies(slots).expected_loads(loads)

    def add_best(self) -> bool:
        """Add the copy after which the ranks' loads, the busiest first, are least. Returns False if none lowers them.

        Only an expert of the busiest rank can lower its load; the copy goes where there is least to do.
        """
        now = self._rank_loads
        busiest = now.index(max(now))
        candidates = [
            (self._with_copy(expert, rank), expert, rank)
            for expert, holders in enumerate(self._holders)
            if busiest in holders and (rank := self._least_busy(holders)) is not None
        ]
        if not candidates:
            return False
        after, expert, rank = min(candidates, key=lambda candidate: sorted(candidate[0], reverse=True))
        if sorted(after, reverse=True) >= sorted(now, reverse=True):
            return False
        self._rank_loads = after
        self._holders[expert].append(rank)
        self.copies[rank].append(expert)
        return True

    def _with_copy(self, expert: int, rank: int) -> list[float]:
        holders, load = self._holders[expert], self._loads[expert]
        after = list(self._rank_loads)
        for holder in holders:
            after[holder] -= load / len(holders) - load / (len(holders) + 1)
        after[rank] += load / (len(holders) + 1)
        return after

    def _least_busy(self, holders: Sequence[int]) -> int | None:
        free = [rank for rank, copies in enumerate(self.copies) if len(copies) < self._places and rank not in holders]
        return min(free, key=lambda rank: self._rank_loads[rank]) if free else None


def _settled(before: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...]:
    """Put a rank's copies into its places; those that were there keep theirs."""
    newcomers = iter([expert for expert in wanted if expert not in before])
    return tuple(expert if expert in wanted else next(newcomers, NOBODY) for expert in before)
