"""Downloads over loopback: how fast a checkpoint arrives, is verified and published, beside curl and sha256sum.

    python -m bench.download            # the weights of 0.3b, under a minute
    python -m bench.download --quick    # in seconds; writes nothing

A server in a process of its own sends files with sendfile(2), so nearly all work is the client's; both are on this
machine and share its disk. In `limited` rows it gives each connection 100 MB/s, as CDNs and mirrors do.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import socketserver
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

from bench import fixtures
from bench.environment import Recording, Row, write_result

_PIECE = 2**18
_LIMIT_MB_PER_S = 100
_SUMS = "SHA256SUMS"


@dataclass(frozen=True, slots=True)
class Plan:
    """Which model; by how many connections."""

    size: str
    connections: tuple[int, ...]


class _Ranges(SimpleHTTPRequestHandler):
    """Files of the working directory, in ranges, each connection at `limit` bytes a second at most (0: any)."""

    protocol_version = "HTTP/1.1"
    limit = 0

    def do_GET(self) -> None:
        """Send a file or a range of it."""
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        size = path.stat().st_size
        first, last = self._range(size)
        self.send_response(206 if "Range" in self.headers else 200)
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        with path.open("rb") as file, contextlib.suppress(ConnectionError):
            self._pour(file.fileno(), first, last + 1)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""

    def _range(self, size: int) -> tuple[int, int]:
        if "Range" not in self.headers:
            return 0, size - 1
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        return int(first), int(last)

    def _pour(self, file: int, at: int, end: int) -> None:
        self.wfile.flush()
        started, sent = time.monotonic(), 0
        while at < end:
            count = os.sendfile(self.connection.fileno(), file, at, min(_PIECE, end - at))
            at, sent = at + count, sent + count
            if self.limit:
                time.sleep(max(0.0, started + sent / self.limit - time.monotonic()))


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model; writes nothing")
    parser.add_argument("--serve", metavar="DIR", help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        _serve(options.serve, options.limit)
        return
    plan = Plan("tiny", (2,)) if options.quick else Plan("0.3b", (1, 8))
    recording = Recording(rates=False, quick=options.quick)
    with tempfile.TemporaryDirectory(prefix="wenxin-bench-") as scratch:
        results = _measure(plan, Path(scratch))
    for title, rows in results.items():
        print(title)
        for row in rows:
            print("  ".join(f"{name} {value}" for name, value in row.items()))
    if not options.quick:
        shown = {"size": plan.size, "limit_mb_per_s": _LIMIT_MB_PER_S}
        print("written to", write_result("download", recording.facts(), results, plan=shown))


def _measure(plan: Plan, scratch: Path) -> dict[str, list[Row]]:
    model = fixtures.write_model(scratch / "model", plan.size)
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(model.iterdir())}
    (model / _SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()))
    weights = model / "model.safetensors"
    results: dict[str, list[Row]] = {}
    for title, limit in (("unlimited", 0), ("limited", _LIMIT_MB_PER_S * 10**6)):
        with _serving(model, limit) as url:
            ways = [
                ("curl, one stream", 1, partial(_curl, url)),
                ("curl, then sha256sum and sync", 1, partial(_curl, url, check=True)),
                *(("ours", count, partial(_ours, url, connections=count)) for count in plan.connections),
            ]
            results[title] = [_row(way, count, weights, fetch) for way, count, fetch in ways]
    return results


def _row(way: str, connections: int, weights: Path, fetch: Callable[[Path], None]) -> Row:
    out = weights.parent.with_name("out")
    shutil.rmtree(out, ignore_errors=True)
    os.sync()  # what the last way has left to write is not this one's
    started = time.perf_counter()
    fetch(out)
    seconds, size = time.perf_counter() - started, weights.stat().st_size
    return {
        "way": way,
        "connections": connections,
        "seconds": round(seconds, 2),
        "mb_per_s": round(size / seconds / 1e6),
    }


def _curl(url: str, out: Path, *, check: bool = False) -> None:
    out.mkdir()
    file = out / "model.safetensors"
    subprocess.run(["curl", "-sf", "-o", file, f"{url}/model.safetensors"], check=True)
    if check:
        subprocess.run(["sha256sum", file], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["sync", file], check=True)


def _ours(url: str, out: Path, connections: int) -> None:
    """Run the whole command: its start, every file, the verification, the publication, the inspection."""
    command = (sys.executable, "-m", "wenxin_runtime", "download", url, str(out), "--log-level=warning")
    result = subprocess.run([*command, f"--connections={connections}"], check=True, capture_output=True)
    if not json.loads(result.stdout)["digest"]:
        raise RuntimeError(result.stderr.decode())


def _serve(directory: str, limit: int) -> None:
    os.chdir(directory)
    _Ranges.limit = limit
    with _Server(("127.0.0.1", 0), _Ranges) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


@contextlib.contextmanager
def _serving(directory: Path, limit: int) -> Iterator[str]:
    command = (sys.executable, "-m", "bench.download", f"--serve={directory}", f"--limit={limit}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None  # noqa: S101 - for the type checker
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


if __name__ == "__main__":
    main()
