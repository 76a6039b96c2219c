"""The ERNIE 4.5 inference runtime: one command, two kinds of process.

    HTTP request -> server/        parse, tokenise, admit          (this process imports no torch)
                 -> ipc            Submit / Abort over ZeroMQ
                 -> engine/        schedule, run, sample: one step at a time
                 -> ipc            Outputs: the tokens of one step
                 -> server/        detokenise, stop strings, SSE or JSON

Where to look: `__main__` the commands; `config` every flag; `ipc` what the processes say to each other; `errors` what
can go wrong; `server` the HTTP process; `tokenizer` text to tokens and back; `grammars` what structured answers follow;
`engine`, `models`, `layers`, `kernels`, `weights` the GPU process; `parallel` one model on several of them; `fixture`
random checkpoints for tests; `download` real ones; `telemetry` metrics and logs, of the `timeline` of each sequence;
`termination` the pod's last words.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("wenxin-operator")
except PackageNotFoundError:  # pragma: no cover - run from a bare source tree
    __version__ = "0.0.0"
