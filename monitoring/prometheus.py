"""A Prometheus on loopback, started for a while, and the questions that one asks of any Prometheus."""

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from monitoring.targets import Config

INSTALL = "install prometheus (on Debian the package of that name; promtool comes with it)"
START_SECONDS = 60.0
_SECONDS = 30.0


@dataclass(frozen=True)
class Series:
    """One answer of a query: its labels, and (time in seconds, value) pairs in order."""

    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]

    @property
    def last(self) -> float:
        """The newest value."""
        return self.points[-1][1]


class QueryError(Exception):
    """Prometheus refused a query; the message is its own."""


@dataclass(frozen=True)
class Prometheus:
    """Any Prometheus, by its URL."""

    url: str

    def query(self, expression: str) -> list[Series]:
        """Answer as of now.

        Raises:
            QueryError: it is no valid query, or cannot be evaluated.
        """
        result = self._data("query", query=expression)["result"]
        if result and not isinstance(result[0], dict):
            return [Series({}, (_point(result),))]  # a scalar
        return [Series(each["metric"], (_point(each["value"]),)) for each in result]

    def between(self, expression: str, begin: float, end: float, step: float) -> list[Series]:
        """Answers from `begin` to `end` (Unix seconds), one every `step` seconds.

        Raises:
            QueryError: as for `query`.
        """
        data = self._data("query_range", query=expression, start=str(begin), end=str(end), step=str(step))
        return [Series(each["metric"], tuple(map(_point, each["values"]))) for each in data["result"]]

    def rules(self) -> list[dict[str, Any]]:
        """All rules, each with its health and its last error."""
        return [rule for group in self._data("rules")["groups"] for rule in group["rules"]]

    def targets(self) -> list[dict[str, Any]]:
        """All targets that are scraped."""
        found: list[dict[str, Any]] = self._data("targets", state="active")["activeTargets"]
        return found

    def _data(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=_SECONDS, trust_env=False)
        body = answer.json()
        if body["status"] != "success":
            raise QueryError(f"{parameters.get('query', path)}: {body['error']}")
        return body["data"]


@contextlib.contextmanager
def running(directory: Path, config: Config, rules: Sequence[Path] = ()) -> Iterator[Prometheus]:
    """Run a Prometheus on a free port of the loopback, with its data below `directory`.

    Raises:
        RuntimeError: it is not installed, or did not become ready; the message holds the end of its log.
    """
    if not shutil.which("prometheus"):
        raise RuntimeError(INSTALL)
    file, log = directory / "prometheus.yml", directory / "prometheus.log"
    file.write_text(yaml.safe_dump({**config, "rule_files": [str(path) for path in rules]}))
    port = _free_port()
    command = [
        "prometheus",
        f"--config.file={file}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with log.open("w") as sink, subprocess.Popen(command, stdout=sink, stderr=sink, cwd=directory) as process:
        try:
            _await_ready(process, f"http://127.0.0.1:{port}", log)
            yield Prometheus(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
            process.wait(timeout=_SECONDS)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _await_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/-/ready", timeout=_SECONDS, trust_env=False).is_success:
                return
        time.sleep(0.05)
    raise RuntimeError(f"prometheus did not become ready; its log ends:\n{log.read_text()[-2000:]}")


def _point(pair: Sequence[Any]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])
