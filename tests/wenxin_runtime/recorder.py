"""A model whose answers show what it was given."""

import torch


class Recorder:
    """A model of one number per row: it writes into the cache and answers from what it is given alone."""

    def __init__(self) -> None:
        self.steps = []

    def __call__(self, token_ids, positions, kv_cache, step):
        self.steps.append((token_ids.clone(), step))
        cache = kv_cache.view(-1)
        cache[step.slots] = token_ids.float()
        first = cache[step.block_tables[:, 0].long() * kv_cache.shape[2]] * (step.lengths > 0)
        first = first.repeat_interleave(step.starts.diff().long())
        return torch.stack((token_ids.float(), positions.float(), first), dim=1)

    def logits(self, hidden):
        return hidden * 2


def eager(run):
    return run
