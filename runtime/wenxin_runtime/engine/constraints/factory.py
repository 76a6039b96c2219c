"""A request to its constraint. Grammars are compiled beside the engine's loop, which never waits for one."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from wenxin_runtime.engine.constraint import Bitmask, Unsatisfiable
from wenxin_runtime.engine.constraints.answer import BoundAnswer
from wenxin_runtime.engine.constraints.bad_words import BadWords
from wenxin_runtime.engine.constraints.following import Following
from wenxin_runtime.engine.constraints.thinking import Thinking
from wenxin_runtime.grammars import GrammarError, Grammars, bitmask_of
from wenxin_runtime.ipc import SamplingParams, Structured, Submit


class Constraints:
    """Makes the constraints of sequences, as `engine.constraint.Constrain` wants it."""

    def __init__(self, grammars: Callable[[], Grammars], *, vocab_size: int, eos_token_ids: Iterable[int]) -> None:
        """Begin to prepare the vocabulary.

        Args:
            grammars: Sorts the vocabulary; called once, in a thread. Where it fails, structured requests do.
            vocab_size: Columns of the logits.
            eos_token_ids: The model's.
        """
        self._vocab_size = vocab_size
        self._eos_token_ids = tuple(eos_token_ids)
        self._unended = ~bitmask_of(self._eos_token_ids, vocab_size)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammars")
        self._grammars = self._thread.submit(grammars)

    def __call__(self, message: Submit) -> BoundAnswer | None:
        """Bind one sequence; None where nothing is asked for.

        Raises:
            Unsatisfiable: no answer can fulfil it.
        """
        params = message.sampling
        bound = BoundAnswer(
            vocab_size=self._vocab_size,
            unended=self._unended,
            thinking=_thinking(params),
            following=self._following(params),
            allowed=None if params.allowed_token_ids is None else self._bitmask(params.allowed_token_ids),
            bad_words=self._bad_words(params.bad_words_ids),
        )
        parts = (bound.thinking, bound.following, bound.allowed, bound.bad_words)
        return None if all(part is None for part in parts) else bound

    def compiling(self, message: Submit) -> Future[None] | None:
        """Begin to compile a request's grammar; None where there is nothing to wait for."""
        structured = message.sampling.structured
        if structured is None or (self._grammars.done() and self._known(structured)):
            return None
        return self._thread.submit(self._compile, structured)

    def _known(self, structured: Structured) -> bool:
        return self._grammars.exception() is not None or self._grammars.result().knows(structured.grammar)

    def _compile(self, structured: Structured) -> None:
        """Fill the cache, with the error too: whoever asks next gets it at once."""
        if self._grammars.exception() is None:
            try:
                self._grammars.result().matcher(structured.grammar)
            except GrammarError:
                return

    def _following(self, params: SamplingParams) -> Following | None:
        if params.structured is None:
            return None
        failure = self._grammars.exception()
        if failure is not None:
            raise Unsatisfiable(f"this server cannot serve structured output: {failure}")
        grammars = self._grammars.result()
        try:
            matcher = grammars.matcher(params.structured.grammar)
        except GrammarError as error:
            raise Unsatisfiable(str(error)) from error
        ending_ids = params.stop_token_ids + (() if params.ignore_eos else self._eos_token_ids)
        return Following(matcher, grammars, ending_ids, self._vocab_size)

    def _bad_words(self, words: tuple[tuple[int, ...], ...]) -> BadWords | None:
        for word in words:
            self._check(word)
        return BadWords(words, self._vocab_size) if words else None

    def _bitmask(self, token_ids: tuple[int, ...]) -> Bitmask:
        self._check(token_ids)
        return bitmask_of(token_ids, self._vocab_size)

    def _check(self, token_ids: tuple[int, ...]) -> None:
        if not token_ids or not 0 <= min(token_ids) <= max(token_ids) < self._vocab_size:
            raise Unsatisfiable(f"a list of token ids is empty or leaves the vocabulary of {self._vocab_size}")


def _thinking(params: SamplingParams) -> Thinking | None:
    return Thinking(params.think_end_ids, params.thinking_budget) if params.think_end_ids else None
