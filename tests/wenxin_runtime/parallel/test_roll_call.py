"""Who may take part, over real sockets: the leader in the test, every other rank in a thread."""

import contextlib
import dataclasses
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec
import pytest

from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.errors import ConfigError, GroupMismatch, RankLost
from wenxin_runtime.parallel import roll_call
from wenxin_runtime.parallel.roll_call import OWN_FLAGS, RollCall, disagreement, listen, report, shared_flags
from wenxin_runtime.parallel.wire import Hello, Line, Refused, Welcome

CONFIG = RuntimeConfig(model_dir="/m", tensor_parallel_size=4, nnodes=2)
WELCOME = Welcome(host="127.0.0.1", store_port=1, orders="ipc:///x")
PATIENCE = 30.0


def hello(rank: int, **differences) -> Hello:
    said = Hello(
        rank=rank, node=rank // 2, version="1", checkpoint="sha256:a" if rank % 2 == 0 else "",
        flags=shared_flags(CONFIG), device="cpu", dtype="float32",
    )  # fmt: skip
    return msgspec.structs.replace(said, **differences)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def call(pool: ThreadPoolExecutor, listener: socket.socket, said: Hello) -> Future[tuple[Line, Welcome]]:
    return pool.submit(report, listener.getsockname(), said, PATIENCE)


def welcome(lines: dict[int, Line], *called: Future[tuple[Line, Welcome]]) -> None:
    """Let those in who have come, and hang up."""
    for line in lines.values():
        line.send(WELCOME)
    for future in called:
        line, told = future.result()
        assert told == WELCOME
        line.close()
    for line in lines.values():
        line.close()


def complete(listener: socket.socket, patience: float = PATIENCE) -> dict[int, Line]:
    return RollCall(CONFIG, hello(0), listener).complete(lambda: None, patience)


def test_the_leader_has_a_line_to_every_rank_when_all_have_come(listener, pool):
    called = [call(pool, listener, hello(rank)) for rank in (3, 1, 2)]
    lines = complete(listener)
    assert list(lines) == [1, 2, 3]
    welcome(lines, *called)


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        ({"version": "2"}, "runs wenxin-runtime 2, the leader 1"),
        ({"checkpoint": "sha256:b"}, "has checkpoint sha256:b, the leader sha256:a"),
        ({"device": "NVIDIA T4"}, "computes on NVIDIA T4, the leader cpu"),
        ({"dtype": "bfloat16"}, "computes in bfloat16, the leader float32"),
        ({"flags": shared_flags(CONFIG) | {"block_size": "32"}}, "has --block-size 32, the leader 16"),
        ({"trouble": "this machine has 1 GPUs, and needs 2"}, "cannot take part: this machine has 1 GPUs"),
        ({"version": "2", "flags": {}, "device": "", "dtype": ""}, "runs wenxin-runtime 2"),
    ],
)
def test_every_rank_is_refused_with_the_one_that_differs_and_in_what(listener, pool, difference, said):
    called = [call(pool, listener, hello(rank, **(difference if rank == 2 else {}))) for rank in (1, 2, 3)]
    with pytest.raises(GroupMismatch, match=r"rank 2 on node 1 \(127.0.0.1\) ") as caught:
        complete(listener)
    assert said in str(caught.value)
    for future in called[1:]:  # those of another machine; the leader ends its own
        with pytest.raises(GroupMismatch) as told:
            future.result()
        assert str(told.value) == str(caught.value)
    called[0].exception()


def test_a_rank_that_reports_again_takes_the_place_of_the_earlier_one(listener, pool):
    first = Line(socket.create_connection(listener.getsockname()))
    first.send(hello(1))
    answers = pool.submit(first.wait, PATIENCE)
    rolls = pool.submit(complete, listener)
    second = call(pool, listener, hello(1))
    assert answers.result() == Refused("another process reports as rank 1", again=True)
    first.close()
    called = [second, *(call(pool, listener, hello(rank)) for rank in (2, 3))]
    welcome(rolls.result(), *called)


def test_a_rank_that_goes_before_the_others_come_is_waited_for_again(listener, pool):
    with Line(socket.create_connection(listener.getsockname())) as first:
        first.send(hello(1))
    called = [call(pool, listener, hello(rank)) for rank in (2, 3)]
    rolls = pool.submit(complete, listener)
    called.append(call(pool, listener, hello(1)))
    welcome(rolls.result(), *called)


def test_strangers_do_not_disturb(listener, pool):
    rubbish = [b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x02\xff\xff", b"\x00\x00\x00", b""]
    with contextlib.ExitStack() as stack:
        for content in rubbish:
            stack.enter_context(socket.create_connection(listener.getsockname())).sendall(content)
        for said in (WELCOME, hello(0), hello(7), hello(1, node=1)):
            line = stack.enter_context(Line(socket.create_connection(listener.getsockname())))
            line.send(said)
        called = [call(pool, listener, hello(rank)) for rank in (1, 2, 3)]
        welcome(complete(listener), *called)


def test_who_does_not_come_is_named(listener, pool, caplog, monkeypatch):
    monkeypatch.setattr(roll_call, "_LOG_EVERY_SECONDS", 0.05)
    called = pool.submit(report, listener.getsockname(), hello(1), 1.0)
    with caplog.at_level("INFO"), pytest.raises(RankLost, match=r"^rank 2 on node 1, rank 3 on node 1 did not come"):
        complete(listener, 1.0)
    assert "waiting for rank 2 on node 1, rank 3 on node 1" in caplog.text
    with pytest.raises(RankLost, match="rank 2 on node 1, rank 3 on node 1 did not come"):
        called.result()  # the leader's last answer


def test_waiting_ends_when_there_is_no_use_in_it(listener):
    class Useless(Exception):
        pass

    def give_up() -> None:
        raise Useless

    with pytest.raises(Useless):
        RollCall(CONFIG, hello(0), listener).complete(give_up)


def test_a_rank_says_whom_it_cannot_find(caplog):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    with caplog.at_level("INFO"), pytest.raises(RankLost, match="--master-addr, --master-port"):
        report(address, hello(1), 0.1)
    assert f"rank 1: waiting for the leader at 127.0.0.1:{address[1]}" in caplog.text


def test_a_name_that_does_not_resolve_yet_is_waited_for():
    with pytest.raises(RankLost, match=r"no leader at nobody\.invalid:29500"):
        report(("nobody.invalid", 29500), hello(1), 0.1)


def test_a_taken_port_is_named_as_the_flag():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--master-port {port}: it is taken"):
            listen(dataclasses.replace(CONFIG, master_port=port))


def test_one_machine_listens_on_loopback_at_a_free_port_whatever_the_flag_says():
    alone = dataclasses.replace(CONFIG, nnodes=1)
    with listen(alone) as one, listen(alone) as other:
        assert one.getsockname()[0] == other.getsockname()[0] == "127.0.0.1"


def test_flags_that_a_machine_has_for_itself_exist_and_need_not_be_alike():
    assert {spec.name for spec in dataclasses.fields(RuntimeConfig)} >= OWN_FLAGS
    other = RuntimeConfig(model_dir="/n", tensor_parallel_size=4, nnodes=2, node_rank=1, port=1, log_level="debug")
    assert not disagreement(hello(0), hello(1, flags=shared_flags(other)))
