"""A user points at weights that cannot be served: the condition names the file or the claim, and says what to do."""

import pytest

from e2e.harness.cluster import Cluster, Object
from e2e.stories.endpoint import condition, summary

WRONG = {
    "missing-claim": ("pvc://no-such-claim/tiny", ["no-such-claim"]),
    "missing-folder": ("pvc://models/no-such-folder", ["no-such-folder"]),
    "no-checkpoint": ("pvc://models/no-checkpoint", ["config.json"]),
    "paddle-layout": ("pvc://models/paddle-layout", ["Paddle"]),
    "truncated": ("pvc://models/truncated", ["model.safetensors"]),
    "unsupported": ("pvc://models/unsupported", ["LlamaForCausalLM"]),
}
SECONDS = 120.0


@pytest.fixture(scope="module")
def wrong_models(cluster: Cluster, checkpoints: str) -> str:
    """All of them at once, so that their inspect Jobs run side by side."""
    cluster.apply([_model(name, source) for name, (source, _) in WRONG.items()], namespace=checkpoints)
    return checkpoints


def _model(name: str, source: str) -> Object:
    return {
        "apiVersion": "serving.wenxin.io/v1alpha1",
        "kind": "WenxinModel",
        "metadata": {"name": name},
        "spec": {"source": source},
    }


@pytest.mark.parametrize("name", WRONG)
def test_the_model_is_not_ready_and_the_message_names_what_is_wrong(
    cluster: Cluster, wrong_models: str, name: str
) -> None:
    words = WRONG[name][1]

    def told() -> Object | None:
        found = cluster.get(f"wenxinmodel/{name}", namespace=wrong_models)
        if not found.get("status", {}).get("conditions"):
            return None
        ready = condition(found, "Ready")
        return found if ready["status"] == "False" and all(word in ready["message"] for word in words) else None

    what = f"WenxinModel {name} to be refused with {words}"
    found = cluster.wait(told, seconds=SECONDS, what=what, about=f"wenxinmodel/{name}", namespace=wrong_models)
    assert "digest" not in found["status"], summary(found)


def test_good_weights_become_ready_without_a_word_of_warning(cluster: Cluster, checkpoints: str) -> None:
    cluster.apply(_model("good", "pvc://models/tiny"), namespace=checkpoints)
    cluster.wait_condition("wenxinmodel/good", "Ready", namespace=checkpoints, seconds=SECONDS)
    events = cluster.list("events", namespace=checkpoints)
    warnings = [event for event in events if event["type"] == "Warning"]
    assert [event for event in warnings if event["involvedObject"]["name"] == "good"] == []


def test_a_claim_that_comes_later_is_noticed(cluster: Cluster, checkpoints: str) -> None:
    name = "late-claim"
    cluster.apply(_model(name, "pvc://late/tiny"), namespace=checkpoints)
    cluster.wait_condition(f"wenxinmodel/{name}", "Ready", "False", namespace=checkpoints, seconds=30)
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "late"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
    }
    cluster.apply(claim, namespace=checkpoints)
    cluster.wait(
        lambda: cluster.list("jobs", namespace=checkpoints, selector=f"serving.wenxin.io/model={name}"),
        seconds=30,
        what="an inspect Job for a claim that came later",
    )
