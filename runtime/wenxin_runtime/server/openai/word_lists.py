"""allowed_token_ids and bad_words, as vLLM reads them."""

from collections.abc import Iterable, Sequence

from wenxin_runtime.errors import InvalidRequest
from wenxin_runtime.tokenizer import Tokenizer


def allowed_token_ids(given: Sequence[int] | None, vocab_size: int) -> tuple[int, ...] | None:
    """Return the only tokens that the answer may hold; None for all. EOS is no exception.

    Raises:
        InvalidRequest: none is allowed, or one is no token.
    """
    if given is None:
        return None
    param = "allowed_token_ids"
    if not given:
        raise InvalidRequest(f"{param} must hold at least one token id", param=param)
    if max(given) >= vocab_size:
        raise InvalidRequest(f"{param}: {max(given)} is outside the vocabulary of {vocab_size}", param=param)
    return tuple(dict.fromkeys(given))


def bad_words_ids(words: Iterable[str], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """Spell each word as tokens, at the beginning of a text and behind a space.

    Raises:
        InvalidRequest: an empty word.
    """
    found: dict[tuple[int, ...], None] = {}
    for number, word in enumerate(words):
        bare = word.lstrip()
        if not bare:
            param = f"bad_words[{number}]"
            raise InvalidRequest(f"{param} must hold more than white space", param=param)
        for text in (bare, " " + bare):
            found[tuple(tokenizer.encode(text))] = None
    return tuple(found)
