"""Drive an in-process engine to the end of its requests, and gather what each request was told."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.engine.engine import Engine
from wenxin_runtime.engine.startup import start
from wenxin_runtime.ipc import Delta, Outputs, SamplingParams, Submit, TokenLogprobs

MOST_STEPS = 5000
VOCAB = 1536


@dataclass
class Answer:
    """All deltas of one request, put together."""

    deltas: list[Delta] = field(default_factory=list)

    @property
    def token_ids(self) -> list[int]:
        return [token for delta in self.deltas for token in delta.token_ids]

    @property
    def logprobs(self) -> list[TokenLogprobs]:
        return [entry for delta in self.deltas for entry in delta.logprobs or ()]

    @property
    def last(self) -> Delta:
        return self.deltas[-1]


def engine_of(model_dir, **flags) -> Engine:
    return start(RuntimeConfig(model_dir=str(model_dir), device="cpu", cpu_threads=1, **flags)).engine


def prompt(length: int, seed: int = 0) -> list[int]:
    """Tokens of the tiny fixture, none of them special."""
    return random.Random(seed).choices(range(3, VOCAB), k=length)


def submit(
    request_id: str,
    prompt: Sequence[int],
    *,
    salt: str = "",
    priority: int = 0,
    siblings: Sequence[str] = (),
    **sampling,
) -> Submit:
    params = SamplingParams(**{"max_tokens": 8, "temperature": 0.0, "ignore_eos": True} | sampling)
    return Submit(request_id, tuple(prompt), params, salt, priority, tuple(siblings))


def finish(engine: Engine, submits: Sequence[Submit] = ()) -> dict[str, Answer]:
    """Submit everything at once and step until nothing is left."""
    for message in submits:
        engine.submit(message)
    answers = {name: Answer() for message in submits for name in message.request_ids}
    for _ in range(MOST_STEPS):
        if not engine.busy:
            return answers
        gather(engine.step(), answers)
    raise AssertionError(f"still busy after {MOST_STEPS} steps")


def gather(outputs: Outputs, answers: dict[str, Answer]) -> None:
    for delta in outputs.deltas:
        answer = answers.setdefault(delta.request_id, Answer())
        assert not answer.deltas or answer.last.finish_reason is None, "a request ended twice"
        answer.deltas.append(delta)
