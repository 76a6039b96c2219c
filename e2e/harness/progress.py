"""Says what is going on, on standard error, so that ten minutes of compiling never look like a hang."""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from e2e.harness.errors import BuildError
from e2e.harness.processes import tail

QUIET_SECONDS = 30.0  # between two signs of life where standard error is no terminal


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Announce a step, and its duration once it is done."""
    say(f"• {what}")
    began = time.monotonic()
    yield
    say(f"  done in {time.monotonic() - began:.1f} s")


def run_logged(
    command: Sequence[str | Path],
    *,
    what: str,
    log: Path,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> None:
    """Run a slow command with its output in `log`, saying every now and then that it is still at work.

    Raises:
        BuildError: it exited non-zero; the message ends with the log's last lines.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with (
        log.open("w") as output,
        subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=directory,
        ) as child,
    ):
        while child.poll() is None:
            _wait(child, what, began)
    if child.returncode:
        raise BuildError(f"{what} failed with exit code {child.returncode}.\n{tail(log, 25)}")


def _wait(child: subprocess.Popen[bytes], what: str, began: float) -> None:
    live = sys.stderr.isatty()
    try:
        child.wait(1.0 if live else QUIET_SECONDS)
    except subprocess.TimeoutExpired:
        text = f"  {what}: {time.monotonic() - began:.0f} s"
        print(f"\r{text}" if live else text, end="" if live else "\n", file=sys.stderr, flush=True)
