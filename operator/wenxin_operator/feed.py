"""Changes of the world -> the store -> keys on the queue. Every change comes through here, whoever noticed it."""

from collections.abc import Callable, Collection
from typing import Protocol

from wenxin_operator.names import OWNER_LABEL, Key, Raw
from wenxin_operator.observe import concerned
from wenxin_operator.store import Store


class Keys(Protocol):
    """The part of the queue that takes keys."""

    def add(self, key: Key) -> None:
        """Ask for a pass now."""
        ...

    def add_after(self, key: Key, seconds: float) -> None:
        """Ask for a pass in so many seconds, unless one comes sooner."""
        ...


class Feed:
    """Takes changes in, and wakes the resources that they concern.

    Args:
        store: What is known.
        keys: What is due.
        chance: A number in [0, 1), spreads the passes of a resync.
    """

    def __init__(self, store: Store, keys: Keys, chance: Callable[[], float]) -> None:
        self._store, self._keys, self._chance = store, keys, chance

    def seen(self, kind: str, thing: Raw) -> None:
        """A watch told of an object, old or new."""
        before = self._known(kind, thing)
        if self._store.put(kind, thing):
            self._wake(kind, *([before] if before else []), thing)

    def gone(self, kind: str, thing: Raw) -> None:
        """A watch told of a deletion."""
        if self._store.remove(kind, thing):
            self._wake(kind, thing)

    def written(self, kind: str, thing: Raw) -> None:
        """The operator wrote an object itself; the watch will tell no news of it.

        A resource whose status was written needs no other pass for that, but those that it concerns do.
        """
        before = self._known(kind, thing)
        if self._store.put(kind, thing):
            only_status = before is not None and kind in OWNER_LABEL and _generation(before) == _generation(thing)
            self._wake(kind, thing, sparing=_key(kind, thing) if only_status else None)

    def kept(self, kind: str, thing: Raw) -> Raw:
        """What is worth keeping of an object that is about to be `listed`: what is stored, if it is the same."""
        return self._store.kept(kind, thing)

    def listed(self, kind: str, namespace: str | None, things: Collection[Raw], version: str) -> None:
        """A full list is in."""
        self._wake(kind, *self._store.replace(kind, namespace, things, version))

    def look_at_everything(self, within: float) -> None:
        """Ask for a pass over every resource, spread over so many seconds."""
        for kind in OWNER_LABEL:
            for thing in self._store.every(kind):
                self._keys.add_after(_key(kind, thing), within * self._chance())

    def _known(self, kind: str, thing: Raw) -> Raw | None:
        return self._store.get(kind, thing["metadata"]["namespace"], thing["metadata"]["name"])

    def _wake(self, kind: str, *things: Raw, sparing: Key | None = None) -> None:
        for key in {key for thing in things for key in concerned(kind, thing, self._store)} - {sparing}:
            self._keys.add(key)


def _key(kind: str, thing: Raw) -> Key:
    return Key(kind, thing["metadata"]["namespace"], thing["metadata"]["name"])


def _generation(thing: Raw) -> object:
    return thing["metadata"].get("generation")
