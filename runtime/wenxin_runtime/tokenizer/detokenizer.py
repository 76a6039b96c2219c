"""Generated ids to text as they come: never half a character, never a character twice."""

import codecs
from collections.abc import Iterable

from wenxin_runtime.tokenizer.pieces import Pieces

# UTF-8 spells a character in at most four bytes, so older tokens cannot leave one open.
_CONTEXT_TOKENS = 4


class Detokenizer:
    """The text of one answer.

    Bytes that are not UTF-8 become U+FFFD as soon as they cannot become a character any more; a character that the
    last token leaves open never becomes text. Otherwise the text equals the tail of `Tokenizer.decode(prompt +
    answer)`, with one exception: a run of `<0xNN>` tokens that contains an invalid byte. Hugging Face's ByteFallback
    then spoils the whole run, valid characters included, which a stream cannot take back; here only the invalid bytes
    are replaced.
    """

    def __init__(
        self,
        pieces: Pieces,
        *,
        skip_special_tokens: bool = True,
        shown: frozenset[int] = frozenset(),
        context: Iterable[int] = (),
    ) -> None:
        """Start a text.

        Args:
            pieces: The bytes of each token.
            skip_special_tokens: Special tokens add no text, except those of `shown`.
            shown: Ids of special tokens that whoever reads the text has to see.
            context: The prompt's ids; a character that its last tokens leave open is completed by the answer.
        """
        self._pieces = pieces
        self._skipped = pieces.special_ids - shown if skip_special_tokens else frozenset[int]()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        for token_id in list(context)[-_CONTEXT_TOKENS:]:
            self.feed(token_id)

    def feed(self, token_id: int) -> str:
        """Add a token; return the characters that it completes."""
        if token_id in self._skipped:
            return ""
        return self._utf8.decode(self._pieces[token_id])

    def feed_all(self, token_ids: Iterable[int]) -> str:
        """Add several tokens; return the characters that they complete, the same as one by one."""
        pieces, skipped = self._pieces, self._skipped
        return self._utf8.decode(b"".join([pieces[token_id] for token_id in token_ids if token_id not in skipped]))
