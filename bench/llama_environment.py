"""llama.cpp's own Python environment, made once from bench/peers.txt and kept outside the clone.

llama-cpp-python is compiled from source for this very machine, which takes ten minutes on two cores. None of it
enters our own environment or our locks.
"""

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

from e2e.harness.paths import cache

PINS = Path(__file__).with_name("peers.txt")
_BUILD_SECONDS = 3600
_COMPLETE = "complete"


class NotBuilt(Exception):
    """There is no llama.cpp here; the message says why."""


def built() -> bool:
    """Whether the interpreter is there already."""
    return (_home() / _COMPLETE).exists()


def python() -> Path:
    """Give the interpreter, after building what is missing.

    Raises:
        NotBuilt: no compiler, no network, or too slow.
    """
    home = _home()
    interpreter = home / "bin" / "python"
    if not built():
        home.parent.mkdir(parents=True, exist_ok=True)
        print(f"building llama.cpp into {home}, once", flush=True)
        _uv("venv", "--quiet", "--clear", "--python", sys.executable, str(home))
        _uv("pip", "install", "--quiet", "--python", str(interpreter), "--requirement", str(PINS))
        (home / _COMPLETE).touch()
    return interpreter


def _home() -> Path:
    """A folder that only this list of pins, this Python and this kind of machine share."""
    identity = PINS.read_text() + platform.python_version() + platform.machine()
    return cache() / "bench" / f"llama-cpp-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def _uv(*arguments: str) -> None:
    environment = os.environ | {"CMAKE_BUILD_PARALLEL_LEVEL": str(len(os.sched_getaffinity(0)))}
    command = ["nice", "-n", "19", sys.executable, "-m", "uv", *arguments]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=_BUILD_SECONDS
        )
    except (subprocess.TimeoutExpired, FileNotFoundError) as error:
        raise NotBuilt(f"llama.cpp could not be built: {error}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise NotBuilt(f"llama.cpp could not be built: {lines[0]}")
