"""The waiting room of requests whose grammar is being compiled."""

from concurrent.futures import Future

from wenxin_runtime.engine.compiling import Compiling
from wenxin_runtime.ipc import SamplingParams, Submit


def submit(name: str, *siblings: str) -> Submit:
    return Submit(request_id=name, prompt_ids=(1,), sampling=SamplingParams(max_tokens=1), siblings=siblings)


def test_who_waited_is_counted_with_the_time_once_its_grammar_is_there() -> None:
    room, slow, quick = Compiling(), Future[None](), Future[None]()
    room.add(submit("a", "b"), slow)
    room.add(submit("c"), quick)
    assert len(room) == 3
    quick.set_result(None)
    assert [message.request_ids for message, _ in room.take(wait=False)] == [("c",)]
    assert (len(room), room.compiled) == (2, 1)
    first = room.seconds
    assert first > 0
    slow.set_result(None)
    room.take(wait=True)
    assert (len(room), room.compiled) == (0, 2)
    assert room.seconds > first


def test_who_left_before_is_not_counted() -> None:
    room = Compiling()
    room.add(submit("a"), Future())
    room.abort("a")
    assert room.take(wait=False) == []
    assert (room.compiled, room.seconds) == (0, 0.0)
