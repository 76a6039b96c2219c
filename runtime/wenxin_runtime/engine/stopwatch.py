"""Where the time of a step goes."""

import time


class Stopwatch:
    """Seconds by phase; a phase may come more than once."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def __getitem__(self, phase: str) -> float:
        return self._seconds.get(phase, 0.0)

    def lap(self, phase: str) -> None:
        """Put the time since the last lap down to `phase`."""
        now = time.perf_counter()
        self._seconds[phase] = self[phase] + now - self._last
        self._last = now
