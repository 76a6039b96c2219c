"""What the store promises: the newest version wins, whatever the order in which watch, list and write arrive."""

import sys
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from wenxin_operator.names import LABEL_DEPLOYMENT, LABEL_MODEL, POD, SERVICE
from wenxin_operator.store import Store, trimmed

LABELS = (LABEL_DEPLOYMENT, LABEL_MODEL)


def thing(
    name: str = "a", version: int = 1, *, namespace: str = "here", of: str | None = "ernie", **more: Any
) -> dict[str, Any]:
    labels = {LABEL_DEPLOYMENT: of} if of else {}
    metadata = {"namespace": namespace, "name": name, "resourceVersion": str(version), "uid": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, **more}


def names(things: Any) -> list[str]:
    return [each["metadata"]["name"] for each in things]


def test_an_object_is_found_by_name_by_label_and_among_all() -> None:
    store = Store(LABELS)
    for name, of in (("b", "ernie"), ("a", "ernie"), ("c", "other"), ("d", None)):
        assert store.put(SERVICE, thing(name, of=of))
    store.put(SERVICE, thing("e", namespace="elsewhere"))
    found = store.get(SERVICE, "here", "a")
    assert found
    assert found["metadata"]["name"] == "a"
    assert store.get(POD, "here", "a") is None
    assert names(store.children(SERVICE, "here", LABEL_DEPLOYMENT, "ernie")) == ["a", "b"]
    assert names(store.children(SERVICE, "here", LABEL_MODEL, "ernie")) == []
    assert names(store.all(SERVICE, "here")) == ["a", "b", "c", "d"]
    assert sorted(names(store.every(SERVICE))) == ["a", "b", "c", "d", "e"]
    assert len(store) == 5


def test_children_by_a_label_without_an_index_are_found_too() -> None:
    store = Store(())
    store.put(SERVICE, thing("a"))
    store.put(SERVICE, thing("b", of="other"))
    assert names(store.children(SERVICE, "here", LABEL_DEPLOYMENT, "ernie")) == ["a"]


def test_an_object_that_changes_its_label_changes_its_owner() -> None:
    store = Store(LABELS)
    store.put(SERVICE, thing("a", 1))
    store.put(SERVICE, thing("a", 2, of="other"))
    assert names(store.children(SERVICE, "here", LABEL_DEPLOYMENT, "ernie")) == []
    assert names(store.children(SERVICE, "here", LABEL_DEPLOYMENT, "other")) == ["a"]


def test_an_event_that_is_older_than_what_is_known_is_no_news() -> None:
    store = Store()
    assert store.put(SERVICE, thing(version=5))
    assert not store.put(SERVICE, thing(version=5))
    assert not store.put(SERVICE, thing(version=4))
    assert store.put(SERVICE, thing(version=10)), "versions are numbers, not text"


def test_a_late_event_does_not_bring_a_deleted_object_back() -> None:
    store = Store()
    store.put(SERVICE, thing(version=5))
    assert store.remove(SERVICE, thing(version=8))
    assert not store.remove(SERVICE, thing(version=8))
    assert not store.put(SERVICE, thing(version=7))
    assert store.put(SERVICE, thing(version=9)), "made anew under the same name"


def test_a_late_deletion_does_not_remove_the_object_that_came_after() -> None:
    store = Store()
    store.put(SERVICE, thing(version=9))
    assert not store.remove(SERVICE, thing(version=8))
    assert store.get(SERVICE, "here", "a")


def test_a_list_removes_what_vanished_while_nobody_watched() -> None:
    store = Store(LABELS)
    for name in "ab":
        store.put(SERVICE, thing(name, 5))
    changed = store.replace(SERVICE, None, [thing("a", 5), thing("c", 7)], "20")
    assert sorted(names(changed)) == ["b", "c"]
    assert names(store.all(SERVICE, "here")) == ["a", "c"]
    assert names(store.children(SERVICE, "here", LABEL_DEPLOYMENT, "ernie")) == ["a", "c"]


def test_a_list_does_not_undo_what_happened_after_it_was_made() -> None:
    store = Store()
    store.put(SERVICE, thing("new", 30))
    store.put(SERVICE, thing("changed", 31, spec={"fresh": True}))
    store.put(SERVICE, thing("gone", 5))
    store.remove(SERVICE, thing("gone", 32))
    changed = store.replace(SERVICE, None, [thing("changed", 6), thing("gone", 5)], "20")
    assert changed == []
    assert names(store.all(SERVICE, "here")) == ["changed", "new"]
    assert store.all(SERVICE, "here")[0]["spec"] == {"fresh": True}


def test_a_list_of_one_namespace_leaves_the_others_alone() -> None:
    store = Store()
    store.put(SERVICE, thing("a", 5))
    store.put(SERVICE, thing("a", 5, namespace="elsewhere"))
    store.put(SERVICE, thing("b", 5, namespace="elsewhere"))
    store.remove(SERVICE, thing("b", 6, namespace="elsewhere"))
    assert names(store.replace(SERVICE, "here", [], "20")) == ["a"]
    assert names(store.every(SERVICE)) == ["a"]
    assert not store.put(SERVICE, thing("b", 5, namespace="elsewhere"))


def test_tombstones_do_not_pile_up() -> None:
    store = Store()
    for version in range(1, 200):
        store.remove(SERVICE, thing(f"s{version}", version))
    store.replace(SERVICE, None, [], "150")
    assert len(store._tombstones[SERVICE]) == 49


def test_nothing_is_left_of_what_is_gone() -> None:
    store = Store(LABELS)
    store.put(SERVICE, thing(version=5))
    store.remove(SERVICE, thing(version=6))
    store.replace(SERVICE, None, [], "10")
    assert (len(store._objects), len(store._labelled), len(store._tombstones[SERVICE])) == (0, 0, 0)


def test_what_no_pass_reads_is_not_kept() -> None:
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "{...}", "mine": "yes"}
    metadata = {"namespace": "here", "name": "a", "managedFields": [{}], "annotations": annotations}
    kept = trimmed(SERVICE, {"metadata": metadata, "spec": {"ports": [{"port": 8000}]}})
    assert kept["metadata"] == {"namespace": "here", "name": "a", "annotations": {"mine": "yes"}}
    assert kept["spec"] == {"ports": [{"port": 8000}]}
    assert "managedFields" in metadata, "the caller's object stays as it was"


def test_a_pod_keeps_its_node_and_status_but_not_its_template() -> None:
    pod = {"metadata": {"name": "a"}, "spec": {"nodeName": "n", "containers": [{}]}, "status": {"phase": "Running"}}
    assert trimmed(POD, pod) == {"metadata": {"name": "a"}, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}}


def test_equal_short_strings_are_stored_once() -> None:
    def fresh() -> str:
        return b"running".decode()

    first, second = (trimmed(SERVICE, {"metadata": {"name": fresh()}, "x": [{fresh(): fresh()}]}) for _ in range(2))
    assert first["metadata"]["name"] is second["metadata"]["name"]
    assert next(iter(first["x"][0])) is sys.intern("running")


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[int, str, bool]]:
    """What happened in the API server: version, name, whether it exists after."""
    alive: set[str] = set()
    history = []
    for version in range(1, draw(st.integers(1, 12)) + 1):
        name = draw(st.sampled_from("abc"))
        exists = name not in alive or draw(st.booleans())
        (alive.add if exists else alive.discard)(name)
        history.append((version, name, exists))
    return history


def as_of(history: list[tuple[int, str, bool]], version: int) -> dict[str, int]:
    state: dict[str, int] = {}
    for at, name, exists in history:
        if at <= version:
            state.pop(name, None)
            if exists:
                state[name] = at
    return state


@settings(max_examples=300, deadline=None)
@given(histories(), st.data())
def test_after_any_mixture_of_lists_and_late_events_the_store_equals_the_world(
    history: list[tuple[int, str, bool]], data: st.DataObject
) -> None:
    """Events come in order but late, and some not at all; lists and own writes come in between."""
    store = Store(LABELS)
    last, listed = history[-1][0], 0
    waiting = [event for event in history if data.draw(st.booleans())]
    while waiting:
        match data.draw(st.sampled_from(["event", "list", "write"])):
            case "event":
                version, name, exists = waiting.pop(0)
                (store.put if exists else store.remove)(SERVICE, thing(name, version))
            case "list":
                listed = version = data.draw(st.integers(listed, last))
                store.replace(SERVICE, None, [thing(n, v) for n, v in as_of(history, version).items()], str(version))
            case _:
                written = [event for event in history if event[2]]
                if written:
                    version, name, _ = data.draw(st.sampled_from(written))
                    store.put(SERVICE, thing(name, version))
        for each in store.every(SERVICE):
            name, version = each["metadata"]["name"], int(each["metadata"]["resourceVersion"])
            assert version > listed or as_of(history, listed)[name] == version, "never older than the newest list"
    store.replace(SERVICE, None, [thing(n, v) for n, v in as_of(history, last).items()], str(last))
    known = {each["metadata"]["name"]: int(each["metadata"]["resourceVersion"]) for each in store.every(SERVICE)}
    assert known == as_of(history, last)
    assert names(store.children(SERVICE, "here", LABEL_DEPLOYMENT, "ernie")) == sorted(known)
