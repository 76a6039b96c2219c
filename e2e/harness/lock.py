"""One builder at a time, across processes and clones."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.harness.progress import say


@contextmanager
def exclusive(path: Path, *, what: str) -> Iterator[None]:
    """Hold a file's lock; says so when another run holds it. The kernel lets go of it when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"• Waiting for another run: {what}.")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
