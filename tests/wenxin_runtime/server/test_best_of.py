"""best_of: more candidates than choices, and the best of them as the answer."""

from typing import Any

import pytest

from tests.wenxin_runtime.fake_engine import choices_of
from tests.wenxin_runtime.server.conftest import Running
from wenxin_runtime.ipc import Delta, Submit, TokenLogprobs

pytestmark = pytest.mark.asyncio(loop_scope="module")


def candidate(submit: Submit, token_id: int, *logprobs: float) -> Delta:
    """An answer that repeats one token, whose tokens have these logprobs."""
    return Delta(
        submit.request_id,
        token_ids=(token_id,) * len(logprobs),
        logprobs=tuple(TokenLogprobs(logprob, 1) for logprob in logprobs),
        finish_reason="length",
    )


async def answer(server: Running, **body: Any) -> dict[str, Any]:
    """Two prompts with four candidates each, of which the second and the fourth are the best."""
    pending = server.posting("completions", prompt=["ab", "cd"], best_of=4, max_tokens=3, **body)
    deltas = []
    for number in range(2):
        message = await server.engine.next()
        assert isinstance(message, Submit)
        assert message.sampling.logprobs == body.get("logprobs", 0)
        first, second, third, fourth = choices_of(message)
        deltas += [
            candidate(fourth, 304 + 10 * number, -0.5, -0.5, -0.5),
            candidate(third, 303 + 10 * number, -9.0),
            candidate(second, 302 + 10 * number, -0.4),
            candidate(first, 301 + 10 * number, -0.1, -0.1, -3.0),
        ]
    await server.engine.step(*deltas)
    response = await pending
    assert response.status_code == 200
    found: dict[str, Any] = response.json()
    return found


async def test_the_candidates_with_the_highest_logprob_per_token_are_returned_best_first(server: Running) -> None:
    body = await answer(server, n=2)
    texts = [server.tokenizer.decode(tokens) for tokens in ([302], [304] * 3, [312], [314] * 3)]
    assert [(choice["index"], choice["text"]) for choice in body["choices"]] == list(enumerate(texts))
    assert [choice["logprobs"] for choice in body["choices"]] == [None] * 4


async def test_one_choice_is_returned_unless_more_are_asked_for(server: Running) -> None:
    body = await answer(server)
    assert [choice["text"] for choice in body["choices"]] == [server.tokenizer.decode([token]) for token in (302, 312)]


async def test_the_tokens_of_all_candidates_are_counted(server: Running) -> None:
    body = await answer(server)
    assert body["usage"]["completion_tokens"] == 2 * (3 + 1 + 1 + 3)
    assert body["usage"]["prompt_tokens"] == len(server.tokens("ab")) + len(server.tokens("cd"))


async def test_a_chosen_candidate_belongs_to_its_own_prompt(server: Running) -> None:
    body = await answer(server, n=2, logprobs=1, return_token_ids=True)
    prompts = [choice["prompt_token_ids"] for choice in body["choices"]]
    assert prompts == [server.tokens("ab")] * 2 + [server.tokens("cd")] * 2
    assert body["choices"][0]["logprobs"]["token_logprobs"] == [-0.4]


async def test_as_many_candidates_as_choices_are_simply_the_choices(server: Running) -> None:
    pending = server.posting("completions", prompt="ab", n=2, best_of=2)
    submits = await server.engine.submits(2)
    assert submits[0].sampling.logprobs is None
    await server.engine.step(*(candidate(submit, 300 + i, -1.0 * i) for i, submit in enumerate(submits[::-1])))
    body = (await pending).json()
    assert [choice["text"] for choice in body["choices"]] == [server.tokenizer.decode([token]) for token in (301, 300)]
