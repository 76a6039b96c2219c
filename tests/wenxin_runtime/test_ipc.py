"""What the two processes say arrives as it was sent."""

import msgspec
import pytest

from wenxin_runtime import ipc
from wenxin_runtime.ipc import (
    Abort,
    Delta,
    EngineStats,
    Fatal,
    Inspect,
    Inspected,
    Loading,
    Outputs,
    Profile,
    Profiled,
    Ready,
    SamplingParams,
    SequenceState,
    Shutdown,
    Submit,
    TokenLogprobs,
)

STATE = SequenceState(
    id="a", running=True, group=0, prompt_tokens=1, generated_tokens=2, computed=3, in_flight=0, max_len=9, blocks=1
)

TO_ENGINE: list[ipc.ToEngine] = [
    Submit("r-0", (1, 2, 103423), SamplingParams(max_tokens=5)),
    Submit(
        "r-1",
        (7,),
        SamplingParams(max_tokens=0, seed=-(2**63), logit_bias={5: -100.0}, stop_token_ids=(2,), prompt_logprobs=0),
        cache_salt="tenant",
    ),
    Abort(("r-0", "r-1")),
    Shutdown(),
    Profile(1.5, 20, "trace.json"),
    Inspect(),
]
FROM_ENGINE: list[ipc.FromEngine] = [
    Loading(1, 2**40),
    Ready(max_model_len=8, kv_blocks=1, block_size=16, device="cpu", dtype="float32", parameters=5, load_seconds=0.1),
    Outputs((), EngineStats()),
    Outputs(
        (
            Delta("r-0", token_ids=(5,), logprobs=(TokenLogprobs(-0.5, 1, ((5, -0.5),)),), cached_tokens=3),
            Delta("r-1", finish_reason="stop", stop_token_id=2, prompt_logprobs=(None, TokenLogprobs(-1.0, 2))),
            Delta("r-2", finish_reason="error", error="it overflowed"),
        ),
        EngineStats(waiting=1, running=2, forward_seconds=0.5),
    ),
    Fatal("OutOfDeviceMemory", "the weights do not fit", 3),
    Profiled("trace.json", 20, "a table"),
    Inspected(kv_blocks_owned=1, kv_blocks_free=2, compiling=3, sequences=(STATE,)),
]


@pytest.mark.parametrize("message", TO_ENGINE, ids=repr)
def test_what_the_server_says_arrives(message: ipc.ToEngine) -> None:
    assert ipc.decode_to_engine(ipc.encode(message)) == message


@pytest.mark.parametrize("message", FROM_ENGINE, ids=repr)
def test_what_the_engine_says_arrives(message: ipc.FromEngine) -> None:
    assert ipc.decode_from_engine(ipc.encode(message)) == message


def test_a_message_in_the_wrong_direction_is_not_understood() -> None:
    with pytest.raises(msgspec.ValidationError):
        ipc.decode_to_engine(ipc.encode(Loading(1, 2)))


def test_a_step_of_many_streams_takes_a_few_bytes_each() -> None:
    deltas = tuple(Delta(f"chatcmpl-{i:032x}-0", token_ids=(103423,)) for i in range(64))
    assert len(ipc.encode(Outputs(deltas, EngineStats()))) < 64 * 100
