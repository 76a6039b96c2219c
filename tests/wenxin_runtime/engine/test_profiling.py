"""A profile ends by its steps or its time, and whatever becomes of it, the engine goes on."""

import json
import time

import torch

from wenxin_runtime.engine.profiling import Profiling
from wenxin_runtime.ipc import EngineStats, Outputs, Profile, Profiled


def step() -> Outputs:
    torch.ones(2, 2) @ torch.ones(2, 2)
    return Outputs((), EngineStats(batch_tokens=1))


def nothing() -> Outputs:
    return Outputs((), EngineStats())


def finished(profiling: Profiling, run=step) -> Profiled:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        profiling.step(run)
        if profiled := profiling.ended(idle=run is nothing):
            return profiled
    raise AssertionError("the profile does not end")


def test_it_ends_after_the_steps_that_computed_something(tmp_path):
    trace = tmp_path / "trace.json"
    profiling = Profiling()
    assert profiling.begin(Profile(60, 2, str(trace))) is None
    profiling.step(nothing)
    profiled = finished(profiling)
    assert (profiled.path, profiled.steps, profiled.error) == (str(trace), 2, None)
    assert "aten::mm" in profiled.table
    names = [event.get("name") for event in json.loads(trace.read_text())["traceEvents"]]
    assert names.count("engine step") == 3
    assert not profiling.active


def test_an_idle_engine_is_profiled_for_its_time_and_no_longer(tmp_path):
    profiling = Profiling()
    assert profiling.begin(Profile(0.05, 20, str(tmp_path / "trace.json"))) is None
    assert finished(profiling, nothing).steps == 0


def test_a_second_profile_is_refused_and_the_first_goes_on(tmp_path):
    profiling = Profiling()
    profiling.begin(Profile(60, 1, str(tmp_path / "trace.json")))
    refused = profiling.begin(Profile(60, 1, "second"))
    assert refused is not None
    assert (refused.path, bool(refused.error)) == ("second", True)
    assert finished(profiling).error is None


def test_a_profile_that_cannot_be_written_is_lost_and_the_next_one_is_not(tmp_path):
    profiling = Profiling()
    profiling.begin(Profile(60, 1, str(tmp_path / "missing" / "trace.json")))
    assert "lost" in finished(profiling).error
    profiling.begin(Profile(60, 1, str(tmp_path / "trace.json")))
    assert finished(profiling).error is None


def test_a_profiler_that_does_not_start_is_reported(tmp_path, monkeypatch):
    def broken(_):
        raise RuntimeError("no counters here")

    monkeypatch.setattr(torch.autograd.profiler.profile, "__enter__", broken)
    refused = Profiling().begin(Profile(60, 1, str(tmp_path / "trace.json")))
    assert refused is not None
    assert "no counters here" in refused.error


def test_without_a_profile_a_step_is_only_a_step():
    profiling = Profiling()
    assert profiling.step(nothing) == nothing()
    assert profiling.ended(idle=True) is None
