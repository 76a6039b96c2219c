"""The token embedding, whole or cut by vocabulary."""

import torch
import torch.nn.functional as F
from torch import Tensor

from wenxin_runtime.parallel.ranks import Ranks


class Embedding:
    """Rows of a table by token id.

    Rows are looked up in the table as it is stored and converted afterwards: half the memory of a converted one.
    """

    def __init__(self, table: Tensor, first: int, dtype: torch.dtype, ranks: Ranks) -> None:
        """Take this rank's rows of the table, [rows, hidden], which begin with token id `first`."""
        self._table = table
        self._first = first
        self._dtype = dtype
        self._ranks = ranks

    def __call__(self, token_ids: Tensor) -> Tensor:
        """Look up token_ids, int64 [rows]: [rows, hidden], newly allocated."""
        if self._ranks.size == 1:
            return F.embedding(token_ids, self._table).to(self._dtype)
        # What lies on another rank is zero here, so the sum over the ranks has each row once, exactly.
        local = token_ids - self._first
        here = (local >= 0) & (local < len(self._table))
        rows = F.embedding(local * here, self._table).to(self._dtype)
        return self._ranks.sum_(rows * here[:, None])
