"""What each token id adds to the text, as bytes.

`Tokenizer.decode` works on whole sequences; a stream needs the share of each token. For the two families of decoders
that ERNIE's tokenizers and their relatives use, byte-level and byte-fallback, that share does not depend on the
neighbours, except at the very start of a text, which a continuation never is.
"""

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import tokenizers

from wenxin_runtime.errors import CheckpointError

_Spelling = Callable[[str], bytes]


class Pieces(dict[int, bytes]):
    """The bytes of each token id, looked up once and kept; none for an id that the tokenizer does not know."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._bytes_of = _spelling_of(tokenizer.decoder)
        added = tokenizer.get_added_tokens_decoder()
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)

    def __missing__(self, token_id: int) -> bytes:
        token = self._tokenizer.id_to_token(token_id)
        piece = self[token_id] = b"" if token is None else self._bytes_of(token)
        return piece


def _spelling_of(decoder: tokenizers.decoders.Decoder | None) -> _Spelling:
    steps = list(_flattened(json.loads(decoder.__getstate__()))) if decoder is not None else []
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return _byte_level
    unknown = [step for step in steps if not _is_per_token(step)]
    if not steps or unknown:
        raise CheckpointError(
            f"tokenizer.json: the decoder {unknown or None} is not supported; "
            "ByteLevel, Metaspace, and Replace, ByteFallback, Fuse, Strip in a Sequence are"
        )
    replacements = tuple(_replacement(step) for step in steps if step["type"] in ("Replace", "Metaspace"))
    return functools.partial(_replaced, replacements=replacements, byte_fallback="ByteFallback" in kinds)


def _flattened(step: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    if step["type"] != "Sequence":
        return [step]
    return [inner for child in step["decoders"] for inner in _flattened(child)]


def _is_per_token(step: Mapping[str, Any]) -> bool:
    match step:
        case {"type": "ByteFallback" | "Fuse" | "Metaspace"}:
            return True
        case {"type": "Replace", "pattern": {"String": _}}:
            return True
        case {"type": "Strip", "stop": 0}:
            return True  # after Fuse it cuts the start of the text only
    return False


def _replacement(step: Mapping[str, Any]) -> tuple[str, str]:
    if step["type"] == "Metaspace":
        return step["replacement"], " "
    return step["pattern"]["String"], step["content"]


def _replaced(token: str, *, replacements: tuple[tuple[str, str], ...], byte_fallback: bool) -> bytes:
    if byte_fallback and len(token) == 6 and token.isascii() and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            pass  # `<0xzz>` is text that only looks like a byte
    for old, new in replacements:
        token = token.replace(old, new)
    return token.encode("utf-8", "replace")


def _byte_level(token: str) -> bytes:
    table = _byte_of_letter()
    try:
        return bytes(table[letter] for letter in token)
    except KeyError:
        return token.encode("utf-8", "replace")  # an added token, kept as it is written


@functools.cache
def _byte_of_letter() -> dict[str, int]:
    """Map GPT-2's letters to the bytes they stand for: printable Latin-1 is itself, the rest starts at U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in set(printable)]
    return {chr(value): value for value in printable} | {chr(256 + i): value for i, value in enumerate(others)}
