"""The `openai` package, unchanged, against the real engine on a tiny checkpoint."""

import codecs
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI, OpenAI

from tests.wenxin_runtime.server.processes import ServerProcess, server_process, until
from wenxin_runtime.tokenizer import Tokenizer

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("openai_client")]

MODEL = "ernie"
HELLO: Any = [{"role": "user", "content": "北京的天气怎么样?"}]
FLAGS = ("--served-model-name", MODEL, "another-name", "--port=0", "--device=cpu", "--max-num-seqs=8")
LIMITS = ("--max-model-len=1024", "--shutdown-delay=0", "--cpu-threads=1")


Served = tuple[ServerProcess, str]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def process(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    directory = tmp_path_factory.mktemp("server")
    flags = directory / "flags"
    flags.write_text("# as the operator mounts them\n\n" + "\n".join(LIMITS) + "\n")
    arguments = ["-m", "wenxin_runtime", "serve", str(model_dir), *FLAGS, f"@{flags}"]
    async with server_process(arguments, directory) as process:
        url = await process.url()
        async with httpx.AsyncClient(base_url=url) as client:

            async def ready() -> bool:
                return (await client.get("/health/ready")).status_code == 200

            await until(ready)
        yield process, url
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0, process.lines


@pytest.fixture(scope="module")
def client(process: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{process[1]}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def async_client(process: Served) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{process[1]}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def chat(client: OpenAI, **options: Any) -> Any:
    greedy = {"max_tokens": 12, "temperature": 0}
    return client.chat.completions.create(model=MODEL, messages=HELLO, **{**greedy, **options})


async def test_models_are_listed(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL, "another-name"]
    assert client.models.retrieve("another-name").id == "another-name"


async def test_a_greedy_chat_is_the_same_whole_streamed_and_asynchronous(
    client: OpenAI, async_client: AsyncOpenAI
) -> None:
    whole = chat(client)
    assert whole.usage.completion_tokens == 12
    assert whole.choices[0].finish_reason == "length"
    with chat(client, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == (
        whole.choices[0].message.content
    )
    assert chunks[-1].usage.model_dump(exclude={"prompt_tokens_details"}) == whole.usage.model_dump(
        exclude={"prompt_tokens_details"}
    )
    stream = await async_client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=12, temperature=0, stream=True
    )
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == whole.choices[0].message.content


async def test_a_chat_is_the_completion_of_its_rendered_prompt(client: OpenAI, model_dir: Path) -> None:
    prompt = Tokenizer.load(model_dir).encode_chat(HELLO)
    completion = client.completions.create(model=MODEL, prompt=prompt, max_tokens=12, temperature=0)
    assert completion.choices[0].text == chat(client).choices[0].message.content
    assert completion.usage.prompt_tokens == len(prompt)


async def test_token_ids_are_returned_and_read_as_the_text(client: OpenAI, model_dir: Path) -> None:
    tokenizer = Tokenizer.load(model_dir)
    answer = chat(client, extra_body={"return_token_ids": True, "ignore_eos": True})
    assert answer.prompt_token_ids == tokenizer.encode_chat(HELLO)
    ids = answer.choices[0].token_ids
    assert len(ids) == 12
    assert tokenizer.pieces is not None
    text = b"".join(tokenizer.pieces[token] for token in ids if token not in tokenizer.pieces.special_ids)
    whole_characters = codecs.getincrementaldecoder("utf-8")("replace").decode(text)
    assert answer.choices[0].message.content == whole_characters


async def test_the_greedy_token_has_the_best_logprob(client: OpenAI) -> None:
    answer = chat(client, logprobs=True, top_logprobs=3)
    for entry in answer.choices[0].logprobs.content:
        assert [other.logprob for other in entry.top_logprobs] == sorted(
            (other.logprob for other in entry.top_logprobs), reverse=True
        )
        assert entry.bytes == entry.top_logprobs[0].bytes
        assert len(entry.top_logprobs) == 3


async def test_echo_scores_what_generation_scored(client: OpenAI) -> None:
    options: dict[str, Any] = {"model": MODEL, "temperature": 0, "logprobs": 1}
    generated = client.completions.create(
        prompt="the sum of", max_tokens=5, extra_body={"return_token_ids": True}, **options
    ).choices[0]
    ids = generated.prompt_token_ids + generated.token_ids
    scored = client.completions.create(prompt=ids, max_tokens=0, echo=True, **options).choices[0]
    assert scored.logprobs.token_logprobs[0] is None
    assert scored.logprobs.token_logprobs[-5:] == pytest.approx(generated.logprobs.token_logprobs, abs=1e-3)
    assert scored.logprobs.tokens[-5:] == generated.logprobs.tokens
    assert len(scored.logprobs.tokens) == len(ids)


async def test_a_seed_repeats_its_draw_and_choices_differ(client: OpenAI) -> None:
    options = {"temperature": 1.5, "n": 3, "seed": 7, "max_tokens": 12, "top_p": 1}
    first, second = chat(client, **options), chat(client, **options)
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert len(set(texts)) == 3


async def test_a_stop_string_cuts_the_greedy_answer(client: OpenAI) -> None:
    whole = chat(client, extra_body={"ignore_eos": True}).choices[0].message.content
    stop = whole[4:6]
    cut = chat(client, stop=[stop], extra_body={"ignore_eos": True})
    assert cut.choices[0].message.content == whole[: whole.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


async def test_a_batch_is_answered_prompt_by_prompt(client: OpenAI) -> None:
    prompts = ["the", "北京", "0123"]
    batch = client.completions.create(model=MODEL, prompt=prompts, max_tokens=6, temperature=0)
    alone = [client.completions.create(model=MODEL, prompt=one, max_tokens=6, temperature=0) for one in prompts]
    assert [choice.text for choice in batch.choices] == [one.choices[0].text for one in alone]


async def test_a_repeated_prompt_is_found_in_the_prefix_cache(client: OpenAI) -> None:
    prompt = "the weather in Beijing is fine and " * 20
    for _ in range(2):
        answer = client.completions.create(model=MODEL, prompt=prompt, max_tokens=1)
    assert answer.usage.prompt_tokens_details.cached_tokens >= answer.usage.prompt_tokens // 2


async def test_errors_are_the_packages_own(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-9"):
        client.completions.create(model="gpt-9", prompt="hi")
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, max_tokens=-5)
    assert caught.value.param == "max_tokens"
    with pytest.raises(openai.BadRequestError, match="1024 tokens"):
        client.completions.create(model=MODEL, prompt=[300] * 2000)


async def test_a_full_server_is_the_packages_internal_server_error(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="at most 108 in one request"):
        client.completions.create(model=MODEL, prompt=["x"] * 109)
    stream = client.completions.create(model=MODEL, prompt=["the"] * 108, stream=True, max_tokens=900)
    with pytest.raises(openai.InternalServerError) as caught:
        client.completions.create(model=MODEL, prompt="hi")
    assert caught.value.status_code == 503
    stream.close()
    await until(lambda: load(client) == (0, 0, 0))


async def test_closing_a_stream_frees_its_places_and_blocks(client: OpenAI) -> None:
    stream = client.completions.create(model=MODEL, prompt="the", n=3, stream=True, max_tokens=900)
    next(iter(stream))
    await until(lambda: load(client)[1] == 3)
    stream.close()
    await until(lambda: load(client) == (0, 0, 0))


def load(client: OpenAI) -> tuple[int, int, float]:
    found = httpx.get(str(client.base_url.join("/load"))).json()
    return found["waiting"], found["running"], found["kv_usage"]
