"""From what the server submits to the sequences that the engine computes, or to why it cannot."""

import hashlib
from collections.abc import Container, Iterable
from concurrent.futures import Future

from wenxin_runtime.engine.constraint import Constrain, Unconstrained, Unsatisfiable
from wenxin_runtime.engine.kv_blocks import BlockTable
from wenxin_runtime.engine.request import Prompt, Request
from wenxin_runtime.engine.seen import Seen, penalised
from wenxin_runtime.ipc import Submit


class Refused(Exception):
    """The request cannot be computed; the text says why."""


class Admission:
    """Knows the limits of one engine, and gives each sequence its seed and its turn."""

    def __init__(
        self,
        *,
        vocab_size: int,
        max_model_len: int,
        eos_token_ids: Iterable[int],
        seed: int,
        constrain: Constrain | None = None,
    ) -> None:
        self._vocab_size = vocab_size
        self._max_model_len = max_model_len
        self._eos_token_ids = tuple(eos_token_ids)
        self._seed = seed
        self._constrain: Constrain = constrain or Unconstrained()
        self._arrivals = 0

    def compiling(self, message: Submit) -> Future[None] | None:
        """Begin to compile the message's grammar; None where `requests` would not wait for anything."""
        return self._constrain.compiling(message)

    def requests(self, message: Submit, open_ids: Container[str]) -> list[Request]:
        """Make one request per choice of the prompt.

        The server has checked the message, but one bad request must not end the engine.

        Raises:
            Refused: it cannot be computed.
        """
        problem = self._problem(message, open_ids)
        if problem:
            raise Refused(problem)
        prompt = Prompt(message.prompt_ids)
        try:
            return [self._request(message, prompt, number) for number in range(len(message.request_ids))]
        except Unsatisfiable as error:
            raise Refused(str(error)) from error

    def _request(self, message: Submit, prompt: Prompt, number: int) -> Request:
        self._arrivals += 1
        params = message.sampling
        return Request(
            request_id=message.request_ids[number],
            prompt=prompt,
            sampling=params,
            seed=params.seed + number if params.seed is not None else _derived_seed(self._seed, self._arrivals),
            stop_ids=params.stop_token_ids + (() if params.ignore_eos else self._eos_token_ids),
            max_len=min(len(prompt.ids) + params.max_tokens, self._max_model_len),
            table=BlockTable(message.cache_salt),
            order=(message.priority, self._arrivals),
            constraint=self._constrain(message),
            seen=Seen(prompt.ids) if penalised(params) else None,
        )

    def _problem(self, message: Submit, open_ids: Container[str]) -> str | None:
        used = next((name for name in message.request_ids if name in open_ids), None)
        if used is not None:
            return f"request id {used} is in use"
        if not message.prompt_ids:
            return "the prompt is empty"
        if len(message.prompt_ids) + min(message.sampling.max_tokens, 1) > self._max_model_len:
            length = len(message.prompt_ids)
            return f"the prompt has {length} tokens; with the answer there is room for {self._max_model_len}"
        named = (*message.prompt_ids, *message.sampling.logit_bias, *message.sampling.stop_token_ids)
        if not all(0 <= token < self._vocab_size for token in named):
            return f"a token id lies outside the vocabulary of {self._vocab_size}"
        return None


def _derived_seed(seed: int, ordinal: int) -> int:
    """Give each request that brings no seed its own, the same in every run of the same requests."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{ordinal}".encode(), digest_size=8).digest())
