"""What is known of the cluster: raw objects, fed by watch events, by our own writes, and replaced by every full list.

Knows no custom resource. The three sources arrive in any order, so the newest resourceVersion of an object wins
(versions are comparable integers since Kubernetes 1.35, and were so in etcd before). A deletion leaves a tombstone
until a list that is newer than it; from then on the list says that whatever is older and not in it is gone.
"""

import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from wenxin_operator.names import HORIZONTAL_POD_AUTOSCALER, POD, Raw

Name = tuple[str, str]  # namespace, name
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
INTERNED_LENGTH = 64


class Store:
    """Implements reconcile.Reader.

    Args:
        labels: Label keys that `children` is quick for.
    """

    def __init__(self, labels: Collection[str] = ()) -> None:
        self._labels = tuple(labels)
        self._objects: dict[tuple[str, str], dict[str, Raw]] = defaultdict(dict)  # kind, namespace -> name -> object
        self._labelled: dict[tuple[str, str, str, str], dict[str, Raw]] = defaultdict(dict)  # ... label, value -> name
        self._tombstones: dict[str, dict[Name, int]] = defaultdict(dict)  # kind -> name -> version of the deletion
        self._listed: dict[tuple[str, str | None], int] = {}  # kind, namespace (None for all) -> newest list's version

    def get(self, kind: str, namespace: str, name: str) -> Raw | None:
        """See reconcile.Reader."""
        return self._objects.get((kind, namespace), {}).get(name)

    def children(self, kind: str, namespace: str, label: str, value: str) -> Sequence[Raw]:
        """See reconcile.Reader. In the order of their names."""
        if label in self._labels:
            found = self._labelled.get((kind, namespace, label, value), {})
            return [found[name] for name in sorted(found)]
        return [thing for thing in self.all(kind, namespace) if labels_of(thing).get(label) == value]

    def all(self, kind: str, namespace: str) -> Sequence[Raw]:
        """See reconcile.Reader. In the order of their names."""
        found = self._objects.get((kind, namespace), {})
        return [found[name] for name in sorted(found)]

    def serves(self, kind: str) -> bool:
        """See reconcile.Reader. What was listed once is there; if it goes, its watch ends, and this copy with it."""
        return any(listed == kind for listed, _ in self._listed)

    def every(self, kind: str) -> Iterator[Raw]:
        """All objects of a kind, whatever their namespace."""
        for (stored, _), things in list(self._objects.items()):
            if stored == kind:
                yield from things.values()

    def put(self, kind: str, thing: Raw) -> bool:
        """Take an object in; False if what is stored, or its deletion, is as new."""
        namespace, name = _name_of(thing)
        known = self.get(kind, namespace, name)
        version = version_of(thing)
        newest = version_of(known) if known is not None else self._last_seen_absent(kind, namespace, name)
        if newest >= version:
            return False
        self._drop(kind, namespace, name)
        self._add(kind, namespace, name, trimmed(kind, thing))
        return True

    def kept(self, kind: str, thing: Raw) -> Raw:
        """The stored object if it is as new, else the trimmed one: so that a long list needs no memory of its own."""
        known = self.get(kind, *_name_of(thing))
        same = known is not None and version_of(known) == version_of(thing)
        return known if known is not None and same else trimmed(kind, thing)

    def remove(self, kind: str, thing: Raw) -> bool:
        """Take a deletion in; False if a newer object has the name or nothing was stored."""
        namespace, name = _name_of(thing)
        version = version_of(thing)
        self._tombstones[kind][namespace, name] = max(version, self._tombstones[kind].get((namespace, name), -1))
        known = self.get(kind, namespace, name)
        if known is None or version_of(known) > version:
            return False
        self._drop(kind, namespace, name)
        return True

    def replace(self, kind: str, namespace: str | None, things: Collection[Raw], version: str) -> list[Raw]:
        """Make the store equal a full list, except for what is newer than the list.

        Args:
            kind: The kind that was listed.
            namespace: The namespace that was listed; None for all.
            things: All of them.
            version: The list's resourceVersion.

        Returns:
            What the watch had not told: new, changed and vanished objects.
        """
        as_of = _number(version)
        listed = {_name_of(thing) for thing in things}
        scope = [thing for thing in self.every(kind) if namespace in (None, thing["metadata"]["namespace"])]
        vanished = [thing for thing in scope if version_of(thing) <= as_of and _name_of(thing) not in listed]
        for thing in vanished:
            self._drop(kind, *_name_of(thing))
        changed = [thing for thing in things if self.put(kind, thing)]
        self._tombstones[kind] = {
            name: gone
            for name, gone in self._tombstones[kind].items()
            if gone > as_of or namespace not in (None, name[0])
        }
        self._listed[kind, namespace] = max(as_of, self._listed.get((kind, namespace), -1))
        return vanished + changed

    def __len__(self) -> int:
        """How many objects are stored."""
        return sum(map(len, self._objects.values()))

    def _last_seen_absent(self, kind: str, namespace: str, name: str) -> int:
        """The newest version as of which an object that is not stored is known not to exist."""
        tombstone = self._tombstones[kind].get((namespace, name), -1)
        return max(tombstone, self._listed.get((kind, namespace), -1), self._listed.get((kind, None), -1))

    def _add(self, kind: str, namespace: str, name: str, thing: Raw) -> None:
        self._objects[kind, namespace][name] = thing
        for label in self._labels:
            if (value := labels_of(thing).get(label)) is not None:
                self._labelled[kind, namespace, label, value][name] = thing

    def _drop(self, kind: str, namespace: str, name: str) -> None:
        thing = self._objects.get((kind, namespace), {}).pop(name, None)
        if thing is None:
            return
        if not self._objects[kind, namespace]:
            del self._objects[kind, namespace]
        for label in self._labels:
            if (value := labels_of(thing).get(label)) is not None:
                index = (kind, namespace, label, value)
                del self._labelled[index][name]
                if not self._labelled[index]:
                    del self._labelled[index]


def version_of(thing: Raw) -> int:
    """The object's resourceVersion; -1 for one that is no number, so that it never counts as newer."""
    return _number(thing["metadata"].get("resourceVersion", ""))


def labels_of(thing: Raw) -> dict[str, str]:
    """Its labels."""
    return thing["metadata"].get("labels") or {}


def trimmed(kind: str, thing: Raw) -> Raw:
    """The object without what no pass reads, and with equal short strings stored once.

    A pod keeps of its spec only the node: its template stands in its Deployment. An autoscaler, of whomever, keeps of
    its status no metrics.
    """
    metadata = {key: value for key, value in thing["metadata"].items() if key != "managedFields"}
    if LAST_APPLIED in (metadata.get("annotations") or {}):
        metadata["annotations"] = {k: v for k, v in metadata["annotations"].items() if k != LAST_APPLIED}
    small = {**thing, "metadata": metadata}
    if kind == POD:
        small["spec"] = {key: value for key, value in (thing.get("spec") or {}).items() if key == "nodeName"}
    if kind == HORIZONTAL_POD_AUTOSCALER:
        small["status"] = {"conditions": (thing.get("status") or {}).get("conditions") or []}
    return _interned(small)  # type: ignore[no-any-return]


def _interned(value: Any) -> Any:
    if isinstance(value, dict):
        return {sys.intern(key): _interned(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_interned(inner) for inner in value]
    return sys.intern(value) if isinstance(value, str) and len(value) <= INTERNED_LENGTH else value


def _name_of(thing: Raw) -> Name:
    return thing["metadata"]["namespace"], thing["metadata"]["name"]


def _number(version: str) -> int:
    return int(version) if version.isdecimal() else -1
