"""A team changes a setting: new pods come, and Ready means that they are the ones that answer."""

import pytest

from e2e.stories.endpoint import Endpoint
from e2e.stories.traffic import traffic


def test_a_changed_flag_rolls_out_and_ready_means_that_the_new_revision_answers(tiny: Endpoint) -> None:
    old_pod, old_config = tiny.pod()["metadata"]["uid"], _config_maps(tiny)
    assert tiny.load()["slots"] == 8

    tiny.apply(engine={"maxNumSeqs": 5})
    resource = tiny.ready()

    assert resource["status"]["observedGeneration"] == resource["metadata"]["generation"]
    tiny.answers_with(slots=5)
    assert tiny.pod()["metadata"]["uid"] != old_pod
    assert "--max-num-seqs=5" in tiny.flags().splitlines()
    tiny.cluster.wait(
        lambda: len(_config_maps(tiny)) == 1 and _config_maps(tiny).isdisjoint(old_config),
        seconds=60,
        what="the old ConfigMap to go with the last pod that mounts it",
        namespace=tiny.namespace,
    )


def test_no_request_fails_while_the_pods_are_replaced(tiny: Endpoint) -> None:
    if not tiny.cluster.backend.reaches_services:
        pytest.skip("a port-forward holds on to one pod, so it breaks with it, whatever the Service does")
    with traffic(tiny) as seen:
        tiny.apply(engine={"maxNumSeqs": 6})
        tiny.ready()
        tiny.answers_with(slots=6)
    assert seen.failures == []
    assert seen.answered > 0


def test_a_change_that_is_taken_back_at_once_leaves_the_old_setting(tiny: Endpoint) -> None:
    tiny.apply(engine={"maxNumSeqs": 6})
    tiny.apply()
    tiny.ready()
    tiny.answers_with(slots=8)


def _config_maps(endpoint: Endpoint) -> set[str]:
    return {name for name in endpoint.children() if name.startswith("ConfigMap/")}
