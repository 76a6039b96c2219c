"""Grammars that answers must follow, compiled by llguidance over the model's own vocabulary.

The server compiles a grammar to refuse what cannot work, the engine to mask tokens: the same code in both, so that they
agree. Grammars come from anybody. llguidance compiles without Python's lock, but it recurses along chains of references
(up to 8 KB of stack for each; a thousand or two end a process that has the usual 8 MB), and some small grammars keep it
busy for minutes. So they are compiled in one thread with a deep stack, and whoever waits need not wait for ever.
Imports no torch.
"""

import math
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance import TokenizerWrapper as Vocabulary
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from numpy.typing import NDArray

from wenxin_runtime.tokenizer import Tokenizer

MAX_GRAMMAR_BYTES = 64 * 1024
# Address space, not memory. The longest chain of references in MAX_GRAMMAR_BYTES takes some 20 MB.
_STACK_BYTES = 256 * 2**20
# Compiled grammars that are kept. One takes some 100 KB; what a hostile one can come to is bounded by _LIMITS.
_KEPT = 64
_LONGEST_REASON = 250  # characters; llguidance may quote the whole grammar
# llguidance's own bounds, which hold a mask to some 15 ms.
_LIMITS = LLParserLimits(verbose_errors=False)


class GrammarError(ValueError):
    """A grammar that no answer can follow, or that is none; the text is for the client."""


class Grammars:
    """The vocabulary of one model, and the grammars compiled for it last. May be used from several threads.

    Attributes:
        end_ids: The tokens by which llguidance marks that an answer may end: EOS, where the model has one.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        vocab_size: int,
        eos_token_ids: Sequence[int],
        most_seconds: float = math.inf,
    ) -> None:
        """Sort the vocabulary into a trie: half a second for 100,000 tokens, in which Python's other threads wait.

        Args:
            tokenizer: The checkpoint's.
            vocab_size: Columns of the logits, which may be more than the tokenizer has tokens.
            eos_token_ids: Tokens that end an answer; they never count as text.
            most_seconds: Processor time after which a grammar is refused for having taken it.
        """
        special_ids = sorted({*tokenizer.pieces.special_ids, *eos_token_ids})
        # A mark for the end is needed even where the model has no EOS: then a token that no grammar lets through.
        self.end_ids = tuple(eos_token_ids) or tuple(special_ids[:1]) or (0,)
        words = _Words(tokenizer, vocab_size, special_ids, self.end_ids[0])
        self._tokenizer = LLTokenizer(Vocabulary(words), eos_token=list(self.end_ids))
        self._vocab_size = vocab_size
        self._most_seconds = most_seconds
        self._compiled: OrderedDict[str, LLMatcher | GrammarError] = OrderedDict()
        self._lock = threading.Lock()
        self._thread = _thread_with_a_deep_stack()

    def knows(self, grammar: str) -> bool:
        """Say whether `matcher` need not compile."""
        return grammar in self._compiled

    def compiling(self, grammar: str) -> Future[None]:
        """Begin to compile `grammar`; afterwards it is known, be it good or bad."""
        return self._thread.submit(self._keep_compiled, grammar)

    def matcher(self, grammar: str) -> LLMatcher:
        """Compile `grammar`, or find it compiled; the matcher stands at the start and is the caller's own.

        Raises:
            GrammarError: it is no grammar, is not supported, takes too long, or no answer can follow it.
        """
        found = self._find(grammar)
        while found is None:
            self.compiling(grammar).result()
            found = self._find(grammar)
        if isinstance(found, GrammarError):
            raise GrammarError(str(found))
        return found.deep_copy()

    def _find(self, grammar: str) -> LLMatcher | GrammarError | None:
        with self._lock:
            if grammar in self._compiled:
                self._compiled.move_to_end(grammar)
            return self._compiled.get(grammar)

    def _keep_compiled(self, grammar: str) -> None:
        if self.knows(grammar):
            return
        started = time.thread_time()
        compiled = self._compile(grammar)
        seconds = time.thread_time() - started
        if seconds > self._most_seconds:
            compiled = GrammarError(f"it is too complex: it took {seconds:.0f} s to compile")
        with self._lock:
            self._compiled[grammar] = compiled
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)

    def _compile(self, grammar: str) -> LLMatcher | GrammarError:
        compiled = LLMatcher(self._tokenizer, grammar, log_level=0, limits=_LIMITS)
        start = compiled.deep_copy()
        mask = allocate_token_bitmask(1, self._vocab_size)
        fill_next_token_bitmask(start, mask)
        error = compiled.get_error() or start.get_error()
        if error:
            return GrammarError(readable(error))
        if not (mask[0] & ~bitmask_of(self.end_ids, self._vocab_size)).any():
            return GrammarError("only an empty answer could follow it")
        return compiled


def _thread_with_a_deep_stack() -> ThreadPoolExecutor:
    before = threading.stack_size(_STACK_BYTES)
    try:
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammar-compiler")
        executor.submit(int).result()  # it starts its thread with the first work
    finally:
        threading.stack_size(before)
    return executor


def bitmask_of(token_ids: Iterable[int], vocab_size: int) -> NDArray[np.int32]:
    """Return a bitmask [ceil(vocab_size / 32)] of exactly these tokens; token i is bit i % 32 of word i // 32."""
    bits = np.zeros(-(-vocab_size // 32) * 32, np.uint8)
    bits[list(token_ids)] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)


def readable(error: str) -> str:
    """Make one sentence for a client of llguidance's report, which has several lines and its own state in them."""
    unimplemented = re.match(r"Unimplemented keys: \[(.*)\]", error)
    if unimplemented:
        names = unimplemented[1].replace('"', "")
        return f"a schema with {names} is not supported"
    if error.startswith("NoExtension"):
        return "no answer can follow it"
    if "regex parse error" in error:
        return "not a supported regular expression: " + error.rpartition("error: ")[2].partition("\n")[0]
    line = error.partition("\n")[0].partition("; following special tokens")[0].strip()[:_LONGEST_REASON]
    line = re.sub(r"^at \d+\(\d+\): invalid regex .*? \(in regex\): ", "not a supported regular expression: ", line)
    return re.sub(r"^(?:at )?(\d+)\((\d+)\): ", r"line \1, column \2: ", line)


class _Words:
    """The vocabulary as llguidance reads it."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, special_ids: Sequence[int], eos_token_id: int) -> None:
        self._tokenizer = tokenizer
        self.tokens = [tokenizer.pieces[token_id] for token_id in range(vocab_size)]
        self.special_token_ids = special_ids
        self.eos_token_id = eos_token_id

    def __call__(self, text: bytes) -> list[int]:
        """Encode text from the middle of an answer: where a grammar leaves one text, it is written as in training."""
        string = text.decode()
        newline = self._tokenizer.encode("\n")
        behind_newline = self._tokenizer.encode("\n" + string)
        if behind_newline[: len(newline)] == newline and self._spells(behind_newline[len(newline) :], text):
            return behind_newline[len(newline) :]  # without the space that some tokenizers put before a text
        ids = self._tokenizer.encode(string)
        return ids if self._spells(ids, text) else self._longest_first(text)

    def _spells(self, token_ids: Sequence[int], text: bytes) -> bool:
        specials = self._ids_of_no_text
        return specials.isdisjoint(token_ids) and b"".join(self.tokens[token] for token in token_ids) == text

    def _longest_first(self, text: bytes) -> list[int]:
        """Encode text that the tokenizer would not spell this way, such as a special token's name."""
        ids: list[int] = []
        while text:
            sizes = range(min(len(text), self._longest), 0, -1)
            size = next((size for size in sizes if text[:size] in self._id_of), 0)
            if not size:
                break
            ids.append(self._id_of[text[:size]])
            text = text[size:]
        return ids

    @cached_property
    def _ids_of_no_text(self) -> frozenset[int]:
        return frozenset(self.special_token_ids)

    @cached_property
    def _id_of(self) -> dict[bytes, int]:
        known = enumerate(self.tokens)
        return {piece: token_id for token_id, piece in known if piece and token_id not in self._ids_of_no_text}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._id_of), default=0)
