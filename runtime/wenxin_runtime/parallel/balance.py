"""Experts and copies of experts on one rank: where each is found, how often it is asked, and how it is replaced.

What the device reads are tables that are changed in place, so that a captured step finds an expert where it is now.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import torch
from torch import Tensor

from wenxin_runtime.kernels import Experts
from wenxin_runtime.parallel.orders import Measure, Prepare, Switch
from wenxin_runtime.parallel.placement import Placement, Slots
from wenxin_runtime.parallel.ranks import Mesh

logger = logging.getLogger(__name__)

ReadExpert = Callable[[int, int], tuple[Tensor, Tensor]]
"""A layer's number in the model and an expert's to its gate_up and down, see `Kernels.experts`, in host memory."""
_Read = list[tuple[int, tuple[Tensor, Tensor]]]
# How far a rank is with its reading; the least of all ranks decides.
_FAILED, _READING, _DONE = range(3)


class ExpertLayer:
    """One layer's experts as this rank sees them."""

    def __init__(self, slots: Slots, mesh: Mesh, asked: Tensor, where: Tensor, copies: Tensor) -> None:
        self.slots = slots
        self.first = mesh.world.rank * slots.per_rank
        self._asked = asked  # int64 [slots of all ranks]
        self._where = where  # int64 [experts, most]: an expert's slots, of which the first `copies` [experts] are
        self._copies = copies
        # With one group all ranks have the same rows and must agree; else every rank asks for its own.
        self._offset = mesh.world.rank if mesh.groups > 1 else 0
        self._counts = mesh.groups > 1 or mesh.world.rank == 0

    def find(self, chosen: Tensor) -> Tensor:
        """Say which slot, of all ranks', computes each choice, int64 [rows, top_k] of experts, and count it.

        The slots of an expert take turns by the row's number in the step, so ranks with the same rows agree.
        """
        found = chosen
        if self.slots.copies:
            rows = torch.arange(self._offset, self._offset + len(chosen), device=chosen.device)[:, None]
            found = self._where[chosen, rows % self._copies[chosen]]
        if self._counts:
            flat = found.flatten()
            self._asked.scatter_add_(0, flat, torch.ones_like(flat))
        return found


class Balance:
    """The experts of all layers on one rank."""

    def __init__(self, slots: Slots, layers: Sequence[int], mesh: Mesh, device: torch.device, read: ReadExpert) -> None:
        """Begin without copies.

        Args:
            slots: Of each layer.
            layers: The numbers of those that have experts.
            mesh: The ranks.
            device: This rank's.
            read: Finds an expert's weights anew, from a thread of its own; an OSError says that it cannot.
        """
        self.slots = slots
        self.layers = tuple(layers)
        self._mesh = mesh
        self._read = read
        self._placements = dict.fromkeys(self.layers, Placement.without_copies(slots))
        self._experts: dict[int, Experts] = {}
        self._asked = torch.zeros(len(layers), slots.total, dtype=torch.int64, device=device)
        self._where = torch.zeros(len(layers), slots.experts, slots.most, dtype=torch.int64, device=device)
        self._copies = torch.ones(len(layers), slots.experts, dtype=torch.int64, device=device)
        homes = [slots.home(expert) for expert in range(slots.experts)]
        self._where[..., 0] = torch.tensor(homes, device=device)
        self._coming: tuple[int, Placement, Future[_Read]] | None = None

    def add(self, layer: int, experts: Experts) -> ExpertLayer:
        """Take charge of a layer's experts, one in each of this rank's slots."""
        self._experts[layer] = experts
        i = self.layers.index(layer)
        return ExpertLayer(self.slots, self._mesh, self._asked[i], self._where[i], self._copies[i])

    def placement(self, layer: int) -> Placement:
        """Say where a layer's experts are."""
        return self._placements[layer]

    def measure(self) -> Tensor:
        """Return what all ranks asked of each slot since the last time, int64 [layers, slots]. A collective."""
        asked = self._mesh.world.sum_(self._asked.clone())
        self._asked.zero_()
        return asked

    def prepare(self, layer: int, copies: tuple[tuple[int, ...], ...]) -> None:
        """Begin to read what a layer's new copies want here, see `Placement`; the old ones go on until `switch`."""
        placement = Placement(self.slots, copies)
        newcomers = placement.newcomers(self._placements[layer], self._mesh.world.rank)
        done: Future[_Read] = Future()
        self._coming = layer, placement, done
        threading.Thread(target=self._fetch, args=(layer, newcomers, done), daemon=True, name="copies").start()

    @property
    def prepared(self) -> bool:
        """Whether this rank has read what it needs, or failed to."""
        return self._coming is not None and self._coming[2].done()

    def switch(self) -> bool | None:
        """Use the copies that were prepared, if all ranks have read their part. A collective.

        Returns None, and goes on waiting, if one of them is still reading; False if one could not, and all give it up.
        """
        assert self._coming is not None  # noqa: S101 - the leader orders one after the other
        layer, placement, done = self._coming
        agreed = self._mesh.world.least(_progress(layer, done))
        if agreed == _READING:
            return None
        self._coming = None
        if agreed == _FAILED:
            return False
        for slot, weights in done.result():
            self._experts[layer].replace(slot, *weights)
        self._point_at(layer, placement)
        return True

    def follow(self, order: Measure | Prepare | Switch) -> None:
        """Carry out what the leading rank does too."""
        match order:
            case Measure():
                self.measure()
            case Prepare():
                self.prepare(order.layer, order.copies)
            case Switch():
                self.switch()

    def _fetch(self, layer: int, newcomers: Sequence[tuple[int, int]], done: "Future[_Read]") -> None:
        try:
            done.set_result([(slot, self._read(layer, expert)) for slot, expert in newcomers])
        except Exception as error:  # noqa: BLE001 - whatever it is, the layer stays as it was
            done.set_exception(error)

    def _point_at(self, layer: int, placement: Placement) -> None:
        i, found = self.layers.index(layer), placement.found_at()
        padded = [slots + slots[:1] * (self.slots.most - len(slots)) for slots in found]
        self._where[i].copy_(torch.tensor(padded))
        self._copies[i].copy_(torch.tensor([len(slots) for slots in found]))
        self._asked[i].zero_()  # a slot's count is one expert's
        self._placements[layer] = placement


def _progress(layer: int, done: "Future[_Read]") -> int:
    if not done.done():
        return _READING
    failure = done.exception()
    if failure is None:
        return _DONE
    logger.warning("layer %d: its copies of experts cannot be read: %s", layer, failure)
    return _FAILED
