"""A generation as bytes. Whatever else comes back from Redis is a miss.

    version (1 byte)  BLAKE2b of the rest (16 bytes)  key (32 bytes)  sequences (MessagePack)

The key inside tells an entry from one that was stored under another name.
"""

import hashlib
from collections.abc import Sequence

import msgspec

from wenxin_runtime.ipc import Delta, FinishReason, TokenLogprobs

_VERSION = b"\x01"
_CHECK_BYTES, _KEY_BYTES = 16, 32
_BEGIN = len(_VERSION) + _CHECK_BYTES


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """One whole sequence; the fields are `Delta`'s."""

    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stop_token_id: int | None
    cached_tokens: int
    logprobs: tuple[TokenLogprobs, ...] | None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None

    def delta(self, request_id: str) -> Delta:
        """Give it as if the engine had generated it in one step."""
        return Delta(
            request_id,
            token_ids=self.token_ids,
            logprobs=self.logprobs,
            finish_reason=self.finish_reason,
            stop_token_id=self.stop_token_id,
            cached_tokens=self.cached_tokens,
            prompt_logprobs=self.prompt_logprobs,
        )


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[Kept, ...]).decode


def pack(key: bytes, sequences: Sequence[Kept]) -> bytes:
    """Spell the sequences of one request."""
    content = key + _encode(sequences)
    return _VERSION + _check(content) + content


def unpack(key: bytes, raw: bytes, count: int) -> tuple[Kept, ...] | None:
    """Read what `pack` has spelled for `key`; None where it is not that, or not `count` sequences."""
    check, content = raw[len(_VERSION) : _BEGIN], raw[_BEGIN:]
    if raw[: len(_VERSION)] != _VERSION or check != _check(content) or content[:_KEY_BYTES] != key:
        return None
    try:
        found = _decode(content[_KEY_BYTES:])
    except msgspec.DecodeError:
        return None
    return found if len(found) == count else None


def _check(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_CHECK_BYTES).digest()


class Recording:
    """The sequences of one request while they grow."""

    def __init__(self, count: int) -> None:
        """Expect so many sequences."""
        self._growing = [_Growing() for _ in range(count)]

    @property
    def complete(self) -> bool:
        """Whether every sequence has ended."""
        return all(sequence.reason is not None for sequence in self._growing)

    def add(self, number: int, delta: Delta) -> None:
        """Append what the engine has generated; behind the end nothing is."""
        self._growing[number].add(delta)

    def stop(self, number: int) -> None:
        """The server has found the end of a sequence in what it has so far."""
        growing = self._growing[number]
        growing.reason = growing.reason or "stop"

    def so_far(self, request_ids: Sequence[str]) -> list[tuple[int, Delta]]:
        """Give each sequence that has begun as one delta."""
        numbered = enumerate(self._growing)
        return [(number, growing.delta(request_ids[number])) for number, growing in numbered if growing.begun]

    def kept(self) -> tuple[Kept, ...]:
        """Give the sequences once all have ended."""
        return tuple(growing.kept() for growing in self._growing)


class _Growing:
    """One sequence."""

    def __init__(self) -> None:
        self.reason: FinishReason | None = None
        self.begun = False
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._scored = False
        self._stop_token_id: int | None = None
        self._cached_tokens = 0
        self._prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None

    def add(self, delta: Delta) -> None:
        if self.reason is not None:
            return
        if not self.begun:
            self.begun, self._cached_tokens, self._prompt_logprobs = True, delta.cached_tokens, delta.prompt_logprobs
        self._token_ids += delta.token_ids
        if delta.logprobs is not None:
            self._scored = True
            self._logprobs += delta.logprobs
        self._stop_token_id = delta.stop_token_id
        self.reason = delta.finish_reason

    def delta(self, request_id: str) -> Delta:
        return Delta(
            request_id,
            token_ids=tuple(self._token_ids),
            logprobs=tuple(self._logprobs) if self._scored else None,
            finish_reason=self.reason,
            stop_token_id=self._stop_token_id,
            cached_tokens=self._cached_tokens,
            prompt_logprobs=self._prompt_logprobs,
        )

    def kept(self) -> Kept:
        whole = self.delta("")
        if whole.finish_reason is None:
            raise ValueError("the sequence has not ended")
        return Kept(
            whole.token_ids,
            whole.finish_reason,
            whole.stop_token_id,
            whole.cached_tokens,
            whole.logprobs,
            whole.prompt_logprobs,
        )
