"""The engine process as the server starts it: real sockets, a real process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zmq

from tests.wenxin_runtime.engine_driver import Answer, submit
from wenxin_runtime import config, ipc
from wenxin_runtime.config import RuntimeConfig

PATIENCE_SECONDS = 60


class Server:
    """The other end."""

    def __init__(self, directory) -> None:
        self.context = zmq.Context()
        self.out, self.inbox = self.context.socket(zmq.PUSH), self.context.socket(zmq.PULL)
        self.addresses = (f"ipc://{directory}/to", f"ipc://{directory}/from")
        self.out.bind(self.addresses[0])
        self.inbox.bind(self.addresses[1])

    def command(self, model_dir, **flags) -> list[str]:
        told = config.to_json(RuntimeConfig(model_dir=str(model_dir), device="cpu", cpu_threads=1, **flags))
        to_engine, from_engine = self.addresses
        return [sys.executable, "-m", "wenxin_runtime.engine", "--to-engine", to_engine, "--from-engine", from_engine,
                "--config", told]  # fmt: skip

    def send(self, message: ipc.ToEngine) -> None:
        self.out.send(ipc.encode(message))

    def receive(self) -> ipc.FromEngine:
        assert self.inbox.poll(1000 * PATIENCE_SECONDS), "the engine says nothing"
        return ipc.decode_from_engine(self.inbox.recv())

    def receive_until(self, kind: type) -> ipc.FromEngine:
        while not isinstance(message := self.receive(), kind):
            pass
        return message

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    yield server
    server.close()


@pytest.fixture
def launch(server):
    started = []

    def engine(model_dir, **flags) -> subprocess.Popen:
        started.append(subprocess.Popen(server.command(model_dir, **flags)))
        return started[-1]

    yield engine
    for process in started:
        process.kill()
        process.wait(PATIENCE_SECONDS)


def test_it_loads_answers_falls_idle_and_ends_when_told(server, launch, tiny):
    process = launch(tiny, max_model_len=256)
    loading = server.receive()
    assert isinstance(loading, ipc.Loading)
    assert 0 < loading.done <= loading.total == 1_132_288
    ready = server.receive_until(ipc.Ready)
    assert ready.max_model_len == 256
    answers = {"a": Answer(), "b": Answer()}
    for name in answers:
        server.send(submit(name, range(5, 30), max_tokens=5))
    while not all(a.deltas and a.last.finish_reason for a in answers.values()):
        for delta in server.receive_until(ipc.Outputs).deltas:
            answers[delta.request_id].deltas.append(delta)
    assert answers["a"].token_ids == answers["b"].token_ids
    idle = server.receive_until(ipc.Outputs)
    assert (idle.deltas, idle.stats.running, idle.stats.kv_blocks_used) == ((), 0, 0)
    server.send(ipc.Shutdown())
    assert process.wait(PATIENCE_SECONDS) == 0


def test_an_abort_is_heard_while_it_works(server, launch, tiny):
    launch(tiny, max_model_len=8000)
    server.receive_until(ipc.Ready)
    server.send(submit("endless", range(5, 30), max_tokens=7000))
    assert server.receive_until(ipc.Outputs).deltas
    server.send(ipc.Abort(("endless",)))
    while server.receive_until(ipc.Outputs).stats.running:
        pass
    assert not server.inbox.poll(300), "an idle engine goes on talking"


def test_a_bad_checkpoint_is_fatal_with_a_reason_and_its_exit_code(server, launch, tmp_path):
    process = launch(tmp_path)
    fatal = server.receive_until(ipc.Fatal)
    assert (fatal.reason, fatal.exit_code) == ("InvalidCheckpoint", 3)
    assert "config.json is missing" in fatal.message
    assert process.wait(PATIENCE_SECONDS) == 3


def test_a_bug_is_fatal_too(server, launch, tiny):
    process = launch(tiny, max_model_len=64)
    server.receive_until(ipc.Ready)
    server.out.send(b"\xc1 not a message")
    fatal = server.receive_until(ipc.Fatal)
    assert (fatal.reason, fatal.exit_code) == ("EngineCrashed", 1)
    assert process.wait(PATIENCE_SECONDS) == 1


def test_it_ends_when_its_server_is_killed(server, tiny):
    # A stand-in for the server starts the engine, says its process id and sleeps until it is killed.
    code = "import subprocess, sys, time; p = subprocess.Popen(sys.argv[1:]); print(p.pid, flush=True); time.sleep(600)"
    command = [sys.executable, "-c", code, *server.command(tiny, max_model_len=64)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        engine = int(parent.stdout.readline())
        server.receive_until(ipc.Ready)
        parent.kill()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while _runs(engine) and time.monotonic() < deadline:
        time.sleep(0.05)
    ended = not _runs(engine)
    if not ended:
        os.kill(engine, signal.SIGKILL)
    assert ended, "the engine outlived its server"


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
