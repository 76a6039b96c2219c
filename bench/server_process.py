"""A real `wenxin-runtime serve` in its own process, ready to be asked."""

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

_LOAD_DEADLINE_SECONDS = 1800
_STEP_SUM = re.compile(r'^wenxin_step_seconds_sum\{phase="(\w+)"\} (\S+)$', re.MULTILINE)


@contextlib.contextmanager
def serving(model_dir: Path, log: Path, *flags: str, program: Sequence[str] = ("wenxin_runtime",)) -> Iterator[str]:
    """Serve `model_dir` on a free port of the loopback; yields the base URL once the model is ready.

    Args:
        model_dir: The checkpoint.
        log: Where the server's output goes.
        flags: Of `serve`.
        program: The module that is asked to serve, and words before that.

    Raises:
        RuntimeError: the server ended or did not become ready in time; the message holds the end of its log.
    """
    command = (sys.executable, "-m", *program, "serve", str(model_dir))
    local = ("--host=127.0.0.1", "--port=0", "--shutdown-delay=0")
    with log.open("w") as sink, subprocess.Popen([*command, *local, *flags], stdout=sink, stderr=sink) as process:
        try:
            yield _wait_ready(process, log)
        finally:
            process.terminate()
            process.wait(timeout=60)


def step_seconds(base_url: str) -> dict[str, float]:
    """Read how long the engine has spent in each phase of its steps, in seconds since its start; empty elsewhere."""
    text = httpx.get(f"{base_url}/metrics", trust_env=False).text
    return {phase: float(value) for phase, value in _STEP_SUM.findall(text)}


def _wait_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + _LOAD_DEADLINE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if found := re.search(r"listening on (http://\S+?)[\"\s,]", log.read_text() + " "):
            with contextlib.suppress(httpx.TransportError):
                ready = httpx.get(f"{found[1]}/health/ready", timeout=5, trust_env=False)
                if ready.status_code == httpx.codes.OK:
                    return found[1]
        time.sleep(0.2)
    raise RuntimeError(f"the server did not become ready; its log ends:\n{log.read_text()[-2000:]}")
