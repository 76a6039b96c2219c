"""What a model writes before its answer: how it ends, and how it is made to end."""


class Thinking:
    """Thinking that the answer starts with.

    Attributes:
        over: Whether the tokens that end it have been written.
    """

    def __init__(self, end_ids: tuple[int, ...], budget: int | None) -> None:
        """Start to think.

        Args:
            end_ids: The tokens that end it, at least one.
            budget: Tokens after which these are written for the model; None: whenever it likes.
        """
        self.over = False
        self._end_ids = end_ids
        self._budget = budget
        self._written = 0
        self._matched = 0  # of end_ids: how many of them the text ends with

    @property
    def forced(self) -> int | None:
        """The token that has to come next, once the budget is used up."""
        if self.over or self._budget is None or self._written < self._budget:
            return None
        return self._end_ids[self._matched]

    def advance(self, token_id: int) -> None:
        """Take note of a token."""
        self._written += 1
        tail = (*self._end_ids[: self._matched], token_id)
        sizes = range(len(tail), 0, -1)
        self._matched = next((size for size in sizes if tail[-size:] == self._end_ids[:size]), 0)
        self.over = self._matched == len(self._end_ids)
