"""The real engine, with a deadlock in its second step; the server starts it in place of wenxin_runtime.engine."""

import sys
import threading

from wenxin_runtime.engine import process
from wenxin_runtime.engine.engine import Engine


def stand_still() -> None:
    lock = threading.Lock()
    with lock:
        lock.acquire()


def stuck_serve(engine: Engine, channel: process.Channel) -> None:
    """Work until the first token is out."""
    step = engine.step

    def stuck_step():
        engine.step = stand_still
        return step()

    engine.step = stuck_step
    serve(engine, channel)


serve = process.serve

if __name__ == "__main__":
    process.serve = stuck_serve
    sys.exit(process.main())
