"""A server that counts where its CPU time goes.

    python -m bench.sampled_server COUNTS serve DIR ...    # COUNTS is a file; the rest is for wenxin-runtime

A signal after every few milliseconds of CPU time looks at the stack. The innermost function that belongs to a stage of
`STAGES` names it; what is above all of them is the event loop. At its end the server writes how many looks each stage
got to COUNTS, as JSON. What runs before the event loop does is left out.
"""

import json
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import wenxin_runtime.__main__
from bench.environment import Row

_INTERVAL_SECONDS = 0.001
_LOOP = ("asyncio/runners.py", "Runner.run")
_REST = "event loop, sockets"

# Part of a file's name, how the function's name begins, and the stage; the first that fits counts.
_WRITING, _PLANNING = "tokens to text to JSON", "request checked and planned"
STAGES = (
    ("/uvicorn/", "", "HTTP parsed and written"),
    ("/redis/", "", "asking Redis"),
    ("/answers/store.py", "", "asking Redis"),
    ("/answers/", "", "key, entry"),
    ("/logging/", "", "access log"),
    ("/server/exchange.py", "Exchange.line", "access log"),
    ("/openai/completions.py", "CompletionWriter", _WRITING),
    ("/openai/answer.py", "", _WRITING),
    ("/openai/choice.py", "", _WRITING),
    ("/openai/parts.py", "", _WRITING),
    ("/openai/generate.py", "_collect", _WRITING),
    ("/tokenizer/", "", _WRITING),
    ("/openai/generate.py", "", "routes, headers, metrics"),
    ("/openai/", "", _PLANNING),
    ("/starlette/", "", "routes, headers, metrics"),
    ("/wenxin_runtime/server/", "", "routes, headers, metrics"),
)

_looks: Counter[str] = Counter()


def rows(counts: Path) -> list[Row]:
    """Read what a server has written, the largest share first."""
    looks = Counter(json.loads(counts.read_text()))
    return [{"stage": stage, "share_of_time": round(n / looks.total(), 3)} for stage, n in looks.most_common()]


def serve() -> None:
    """Serve, and count."""
    counts = Path(sys.argv.pop(1))
    signal.signal(signal.SIGPROF, _look)
    signal.setitimer(signal.ITIMER_PROF, _INTERVAL_SECONDS, _INTERVAL_SECONDS)
    try:
        wenxin_runtime.__main__.main()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        counts.write_text(json.dumps(_looks))


def _look(_number: int, frame: FrameType | None) -> None:
    stage = None
    while frame is not None:
        file, function = frame.f_code.co_filename, frame.f_code.co_qualname
        if file.endswith(_LOOP[0]) and function == _LOOP[1]:
            _looks[stage or _REST] += 1
            return
        stage = stage or next((name for part, head, name in STAGES if part in file and function.startswith(head)), None)
        frame = frame.f_back


if __name__ == "__main__":
    serve()
