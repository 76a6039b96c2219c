import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from e2e.harness.errors import ProcessError
from e2e.harness.processes import Ledger, Process, start, start_time, wait_until

PATIENT = ["sleep", "60"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log" / "process.log"


def test_a_started_process_is_alive_until_it_is_stopped(log: Path) -> None:
    process = start("sleeper", PATIENT, log=log)
    assert process.alive
    process.stop()
    assert not process.alive


def test_stopping_twice_is_harmless(log: Path) -> None:
    process = start("sleeper", PATIENT, log=log)
    process.stop()
    process.stop()


def test_a_process_that_ignores_the_polite_signal_is_killed(log: Path) -> None:
    stubborn = start("stubborn", ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"], log=log)
    wait_until(lambda: log.read_text() == "deaf\n", seconds=10, processes=[(stubborn, log)], what="the trap")
    stubborn.stop(grace=0.05)
    assert not stubborn.alive


def test_a_stranger_with_the_same_id_is_left_alone(log: Path) -> None:
    process = start("sleeper", PATIENT, log=log)
    before_reuse = Process(process.name, process.pid, process.started - 1)
    before_reuse.stop(first=signal.SIGKILL)
    assert not before_reuse.alive
    assert process.alive
    process.stop()


def test_waiting_fails_with_the_end_of_the_log_when_the_process_dies(log: Path) -> None:
    process = start("brief", ["sh", "-c", "sleep 0.2; echo no such flag; exit 2"], log=log)
    with pytest.raises(ProcessError, match=r"brief ended while waiting for its port.\n.*\n  no such flag"):
        wait_until(lambda: False, seconds=10, processes=[(process, log)], what="its port")


def test_waiting_ends_at_the_deadline() -> None:
    with pytest.raises(ProcessError, match="the moon did not come true within 0 s"):
        wait_until(lambda: False, seconds=0.1, processes=[], what="the moon")


def test_a_ledger_remembers_processes_in_order_and_the_newest_of_each_name(tmp_path: Path) -> None:
    path = tmp_path / "processes.jsonl"
    first, other, again = Process("a", 1, 10, ("a", "-x")), Process("b", 2, 20), Process("a", 3, 30)
    for process in (first, other, again):
        Ledger(path).add(process)
    assert Ledger(path).read() == [first, other, again]
    assert list(Ledger(path).newest().values()) == [again, other]


def test_an_absent_ledger_is_empty(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "none").read() == []


def test_a_process_can_be_told_to_die_with_its_parent(log: Path) -> None:
    script = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from e2e.harness.processes import start, wait_until
        child = start("sleeper", ["sleep", "60"], log=Path(sys.argv[1]), dies_with_parent=True)
        command = Path(f"/proc/{child.pid}/cmdline")  # it is setpriv until the death signal is set
        wait_until(lambda: command.read_bytes().startswith(b"sleep"), seconds=10, processes=[], what="sleep")
        print(child.pid, child.started, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run([sys.executable, "-c", script, str(log)], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    pid, started = map(int, done.stdout.split())
    wait_until(lambda: start_time(pid) != started, seconds=10, processes=[], what="the orphan's end")
