"""What makes two requests equal: everything that decides the tokens, and nothing that only spells them."""

import hashlib
from typing import Any

import msgspec

from wenxin_runtime.server.openai.parts import AnswerFormat
from wenxin_runtime.server.openai.plan import Plan

_encode = msgspec.json.Encoder().encode


def key_of(plan: Plan, identity: str, tenant: str) -> bytes:
    """Hash a request: 32 bytes.

    A streamed and a whole answer have the same key, so has any id, priority or way to show tokens. What ends an answer
    in the server (stop strings, a tool call where only one is wanted) decides which tokens there are, as does the text
    that it is looked for in.

    Args:
        plan: What is to be generated.
        identity: The model, and how it computes.
        tenant: Who may share answers with whom.
    """
    asked: list[Any] = [
        identity,
        tenant,
        plan.cache_salt,
        [prompt.ids for prompt in plan.prompts],
        plan.candidates,
        msgspec.structs.replace(plan.sampling, logit_bias={}),
        sorted(plan.sampling.logit_bias.items()),
        plan.stop,
        plan.include_stop,
        plan.skip_special_tokens,
        plan.answer_format and _what_ends(plan.answer_format),
    ]
    return hashlib.sha256(_encode(asked)).digest()


def _what_ends(answer: AnswerFormat) -> list[Any]:
    stage, calls = answer.stage, answer.calls
    return [stage and stage.name, calls and calls.only_one, sorted(answer.shown_ids)]


def space_of(identity: str) -> str:
    """Name what a model's keys have in common, so that they can be found without the requests: 12 hex digits."""
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


def is_deterministic(plan: Plan) -> bool:
    """Say whether the same request always has the same answer: it is greedy, or draws from a seed of its own."""
    return plan.sampling.temperature == 0 or plan.sampling.seed is not None
