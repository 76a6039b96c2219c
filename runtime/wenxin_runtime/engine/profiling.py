"""torch's profiler over some steps of a running engine, for somebody who asks why it is slow."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.autograd import profiler

from wenxin_runtime.ipc import Outputs, Profile, Profiled

# How often an idle engine looks whether its profile is over, or a request has come.
_IDLE_SECONDS = 0.01
_ROWS = 40

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Run:
    """A profile under way."""

    wanted: Profile
    watching: Any  # a torch.autograd.profiler.profile, which has no annotations
    deadline: float
    steps: int = 0


class Profiling:
    """At most one profile at a time. Where none is wanted, a step costs one comparison more."""

    def __init__(self) -> None:
        self._run: _Run | None = None

    @property
    def active(self) -> bool:
        """Whether steps are being watched."""
        return self._run is not None

    def begin(self, wanted: Profile) -> Profiled | None:
        """Watch the steps from now on; returns why not, if so."""
        if self._run is not None:
            return Profiled(wanted.path, error="another profile is being taken")
        device = "cuda" if torch.cuda.is_available() else None
        # Not torch.profiler.profile, which imports a compiler first and stalls the streams for seconds.
        watching: Any = profiler.profile(use_kineto=True, use_device=device, acc_events=True)
        try:
            watching.__enter__()
        except Exception as error:  # a profiler that fails must not end the engine
            logger.exception("the profiler does not start")
            return Profiled(wanted.path, error=f"the profiler does not start: {error}")
        self._run = _Run(wanted, watching, time.monotonic() + wanted.seconds)
        logger.info("profiling %d steps, for %g s at most", wanted.steps, wanted.seconds)
        return None

    def step(self, step: Callable[[], Outputs]) -> Outputs:
        """Run a step, under a name of its own in the trace."""
        if self._run is None:
            return step()
        with profiler.record_function("engine step"):
            outputs = step()
        self._run.steps += bool(outputs.stats.batch_tokens)
        return outputs

    def ended(self, *, idle: bool) -> Profiled | None:
        """Say what was seen, once that is enough. An `idle` engine rests here a moment, or it would spin."""
        run = self._run
        if run is None:
            return None
        if run.steps < run.wanted.steps and time.monotonic() < run.deadline:
            if idle:
                time.sleep(_IDLE_SECONDS)
            return None
        self._run = None
        try:
            return _seen(run)
        except Exception as error:  # a full disk, or nobody waits any more: that must not end the engine
            logger.exception("the profile is lost")
            return Profiled(run.wanted.path, error=f"the profile is lost: {error}")


def _seen(run: _Run) -> Profiled:
    run.watching.__exit__(None, None, None)
    run.watching.export_chrome_trace(run.wanted.path)
    if not Path(run.wanted.path).is_file():  # the exporter only writes a line to stderr
        raise OSError(f"{run.wanted.path} cannot be written")
    averages = run.watching.key_averages()
    sort_by = "self_device_time_total" if run.watching.use_device else "self_cpu_time_total"
    table = averages.table(sort_by=sort_by, row_limit=_ROWS, max_name_column_width=60)
    return Profiled(run.wanted.path, run.steps, table)
