import pytest

from wenxin_runtime.engine.constraints.thinking import Thinking


def write(thinking: Thinking, *token_ids: int) -> None:
    for token_id in token_ids:
        thinking.advance(token_id)


def test_thinking_ends_with_its_tokens_wherever_they_come():
    thinking = Thinking((7, 8), None)
    write(thinking, 1, 7, 1, 8, 7)
    assert not thinking.over
    write(thinking, 8)
    assert thinking.over
    assert thinking.forced is None


@pytest.mark.parametrize("text", [(7, 7, 8), (7, 8, 7, 7, 8), (7, 7, 7, 7, 8)])
def test_an_end_that_begins_like_itself_is_found(text):
    thinking = Thinking((7, 7, 8), None)
    write(thinking, 1, *text)
    assert thinking.over


def test_a_used_up_budget_forces_the_end_token_by_token():
    thinking = Thinking((7, 8), 2)
    write(thinking, 1)
    assert thinking.forced is None
    write(thinking, 1)
    assert thinking.forced == 7
    write(thinking, 7)
    assert (thinking.forced, thinking.over) == (8, False)
    write(thinking, 8)
    assert (thinking.forced, thinking.over) == (None, True)


def test_an_end_that_has_begun_within_the_budget_is_only_completed():
    thinking = Thinking((7, 8), 2)
    write(thinking, 1, 7)
    assert thinking.forced == 8


def test_a_budget_of_0_ends_the_thinking_at_once():
    assert Thinking((7,), 0).forced == 7
