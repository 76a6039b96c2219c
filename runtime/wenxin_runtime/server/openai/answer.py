"""All choices of one request, from the engine's deltas to pieces that can be written."""

from msgspec import UNSET, UnsetType

from wenxin_runtime.server.generation import Generation
from wenxin_runtime.server.openai.choice import Choice
from wenxin_runtime.server.openai.piece import Piece
from wenxin_runtime.server.openai.plan import Plan
from wenxin_runtime.server.openai.responses import CompletionTokensDetails, PromptTokensDetails, Usage
from wenxin_runtime.tokenizer import Tokenizer


class Answer:
    """The choices of one request while they grow."""

    def __init__(self, plan: Plan, tokenizer: Tokenizer, generation: Generation) -> None:
        self.plan = plan
        self._generation = generation
        candidates = plan.of_candidates()
        self._choices = [Choice(i, candidates, tokenizer) for i in range(len(generation.request_ids))]
        self._logprobs = [0.0] * len(self._choices)

    @property
    def finished(self) -> bool:
        """Whether every choice has its finish reason."""
        return all(choice.finished for choice in self._choices)

    @property
    def usage(self) -> Usage:
        """Token counts so far. A prompt counts once, however many choices it has."""
        prompt_tokens = self.plan.prompt_tokens
        completion_tokens = sum(choice.tokens for choice in self._choices)
        cached = sum(choice.cached_tokens for choice in self._choices[:: self.plan.candidates])
        return Usage(
            prompt_tokens,
            completion_tokens,
            prompt_tokens + completion_tokens,
            PromptTokensDetails(cached),
            self._completion_details,
        )

    @property
    def _completion_details(self) -> CompletionTokensDetails | UnsetType:
        if self.plan.answer_format is None or self.plan.answer_format.stage is None:
            return UNSET
        return CompletionTokensDetails(sum(choice.reasoning_tokens for choice in self._choices))

    async def grow(self, pieces: dict[int, Piece]) -> None:
        """Wait for deltas and add them to `pieces`, by the number of the choice.

        Raises:
            RequestError: the request cannot be finished.
            ClientGone: nobody waits for the answer.
        """
        for index, delta in await self._generation.take():
            choice = self._choices[index]
            if not choice.finished:
                piece = pieces.get(index)
                if piece is None:
                    piece = pieces[index] = Piece(index)
                choice.push(delta, piece, self._generation)
                self._logprobs[index] += sum(entry.logprob for entry in delta.logprobs or ())

    async def next_pieces(self) -> list[Piece]:
        """Wait for deltas and return what they add, in the order of the choices.

        Raises:
            RequestError: the request cannot be finished.
            ClientGone: nobody waits for the answer.
        """
        pieces: dict[int, Piece] = {}
        await self.grow(pieces)
        return [pieces[index] for index in sorted(pieces)]

    async def whole(self) -> list[Piece]:
        """Wait for the end and return one piece per choice, in order, or best first where there were more candidates.

        Raises:
            RequestError: the request cannot be finished.
            ClientGone: nobody waits for the answer.
        """
        pieces: dict[int, Piece] = {}
        while not self.finished:
            await self.grow(pieces)
        if self.plan.candidates == self.plan.n:
            return [pieces[index] for index in sorted(pieces)]
        return self._picked(pieces)

    def _picked(self, pieces: dict[int, Piece]) -> list[Piece]:
        """Keep the `n` candidates of each prompt with the highest mean logprob, and number them anew."""
        width = self.plan.candidates
        ranked = (
            sorted(range(first, first + width), key=self._mean_logprob, reverse=True)[: self.plan.n]
            for first in range(0, len(self._choices), width)
        )
        picked = [pieces[index] for indices in ranked for index in indices]
        for index, piece in enumerate(picked):
            piece.index = index
        return picked

    def _mean_logprob(self, index: int) -> float:
        return self._logprobs[index] / max(self._choices[index].tokens, 1)
