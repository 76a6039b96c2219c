"""A pod's status in words that help, and that stay the same while nothing changes."""

import json
from typing import Any

import pytest

from wenxin_operator.pods import LONGEST, Problem, last_termination, problem, result, see, termination


def pod(state: dict[str, Any] | None = None, *, ready: bool = False, **more: Any) -> dict[str, Any]:
    container = {"name": "runtime", "image": "wenxin:1", "ready": ready} | (state or {})
    conditions = [{"type": "Ready", "status": str(ready)}]
    status = {"phase": "Running", "conditions": conditions, "containerStatuses": [container]}
    metadata = {"name": "ernie-0", "labels": {"serving.wenxin.io/revision": "abc"}}
    return {"metadata": metadata, "status": status | more}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason, "message": message}}}


def ended(message: str = "", code: int = 1, **more: Any) -> dict[str, Any]:
    return {"state": {"terminated": {"exitCode": code, "message": message, **more}}}


LWS = "leaderworkerset.sigs.k8s.io"
NOT_FOUND = 'failed to pull and unpack image "wenxin:1": not found'


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("ErrImagePull", NOT_FOUND),
        ("ImagePullBackOff", f'Back-off pulling image "wenxin:1": ErrImagePull: {NOT_FOUND}'),
    ],
)
def test_both_phases_of_a_failing_pull_read_the_same(reason: str, message: str) -> None:
    assert problem(pod(waiting(reason, message))) == Problem(
        "ImagePullBackOff", f"image wenxin:1 cannot be pulled: {NOT_FOUND}"
    )


def test_a_back_off_without_a_cause_names_the_image() -> None:
    told = problem(pod(waiting("ImagePullBackOff", 'Back-off pulling image "wenxin:1"')))
    assert told == Problem("ImagePullBackOff", "image wenxin:1 cannot be pulled")


def test_a_container_that_can_not_be_made_says_why() -> None:
    told = problem(pod(waiting("CreateContainerConfigError", 'configmap "ernie-flags" not found')))
    assert told == Problem("CreateContainerConfigError", 'configmap "ernie-flags" not found')


def test_a_crash_tells_the_runtimes_own_words_in_every_phase_of_the_loop() -> None:
    words = json.dumps({"reason": "InvalidCheckpoint", "message": "model.safetensors is truncated"})
    now, before = ended(words)["state"], {"lastState": ended(words)["state"]}
    phases = [
        {"state": now},
        waiting("CrashLoopBackOff", "back-off 5m0s") | before,
        {"state": {"running": {}}} | before,
    ]
    assert {problem(pod(phase)) for phase in phases} == {Problem("InvalidCheckpoint", "model.safetensors is truncated")}


def test_a_first_start_is_no_problem() -> None:
    assert problem(pod(waiting("ContainerCreating"))) is None
    assert problem(pod({"state": {"running": {}}})) is None
    assert problem({"metadata": {"name": "new"}}) is None


def test_a_container_that_has_done_its_work_is_no_problem_before_its_pods_phase_says_so() -> None:
    assert problem(pod(ended('{"digest": "sha256:0"}', code=0))) is None


def test_a_container_that_recovered_is_no_problem() -> None:
    assert problem(pod({"state": {"running": {}}, "lastState": ended()["state"]}, ready=True)) is None


@pytest.mark.parametrize("end", [".", ". no new claims to deallocate,"], ids=["without claims", "with claims"])
def test_a_pod_nobody_can_take_repeats_the_scheduler(end: str) -> None:
    words = f"0/3 nodes are available: 3 Insufficient nvidia.com/gpu{end} preemption: 0/3 nodes are available"
    scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
    told = problem(pod(phase="Pending", conditions=[scheduled], containerStatuses=None))
    assert told == Problem("Unschedulable", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu")


def test_out_of_memory_is_told_as_such() -> None:
    assert termination({"exitCode": 137, "reason": "OOMKilled"}).reason == "OOMKilled"


def test_without_words_the_last_line_of_the_log_must_do() -> None:
    told = termination({"exitCode": 1, "message": "Traceback\nImportError: libcuda.so.1\n\n"})
    assert told == Problem("CrashLoopBackOff", "the container ended with exit code 1: ImportError: libcuda.so.1")
    assert termination({"exitCode": 0}).message == "the container ended with exit code 0"


@pytest.mark.parametrize("reason", ["", "not camel", "a" * 200, 7, None])
def test_a_reason_that_no_condition_can_hold_is_not_believed(reason: Any) -> None:
    assert termination({"message": json.dumps({"reason": reason, "message": "x"})}).reason == "CrashLoopBackOff"


@pytest.mark.parametrize("words", ["", "{", "[1]", "7", "null", '{"a": 1} trailing'])
def test_what_is_no_object_is_no_result(words: str) -> None:
    assert result(words) is None


def test_someone_elses_message_is_kept_short_and_on_one_line() -> None:
    told = termination({"message": json.dumps({"reason": "Odd", "message": "a\n" * 5000})})
    assert len(told.message) == LONGEST
    assert "\n" not in told.message


def test_the_most_recent_end_is_the_present_state_else_the_last() -> None:
    assert last_termination(pod(ended("now") | {"lastState": ended("before")["state"]})) == {
        "exitCode": 1,
        "message": "now",
    }
    assert last_termination(pod({"state": {"running": {}}, "lastState": ended("before")["state"]})) is not None
    assert last_termination(pod()) is None


def test_a_pod_that_is_ready_counts_for_its_revision() -> None:
    seen = see(pod(ready=True))
    assert (seen.name, seen.revision, seen.ready, seen.leaving, seen.problem) == ("ernie-0", "abc", True, False, None)


@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
def test_a_pod_that_has_ended_counts_no_more(phase: str) -> None:
    seen = see(pod(ended("x"), phase=phase))
    assert (seen.leaving, seen.ready, seen.problem) == (True, False, None)


def test_a_pod_that_is_being_deleted_counts_no_more() -> None:
    leaving = pod(ready=True)
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert (see(leaving).leaving, see(leaving).ready) == (True, False)


@pytest.mark.parametrize(
    ("labels", "place"),
    [
        ({}, ("", 0, True)),
        ({"apps.kubernetes.io/pod-index": "mine"}, ("", 0, True)),
        ({"serving.wenxin.io/group": "ernie-1-0", "apps.kubernetes.io/pod-index": "0"}, ("ernie-1-0", 0, True)),
        ({"serving.wenxin.io/group": "ernie-1-0", "apps.kubernetes.io/pod-index": "3"}, ("ernie-1-0", 3, False)),
        ({f"{LWS}/group-index": "2", f"{LWS}/worker-index": "0", "apps.kubernetes.io/pod-index": "2"}, ("2", 0, True)),
        ({f"{LWS}/group-index": "2", f"{LWS}/worker-index": "1", "apps.kubernetes.io/pod-index": "1"}, ("2", 1, False)),
    ],
)
def test_a_pods_labels_say_its_place_in_its_group(labels: dict[str, str], place: tuple[str, int, bool]) -> None:
    one = pod()
    one["metadata"]["labels"] |= labels
    found = see(one)
    assert (found.group, found.node_rank, found.leads) == place
