"""Bitmasks to logits: whichever rows are bound, and on either device."""

import numpy as np
import pytest
import torch

from wenxin_runtime.engine.shaping import Row, shape, spread
from wenxin_runtime.grammars import bitmask_of
from wenxin_runtime.ipc import SamplingParams

VOCAB = 70


class Allowing:
    finished, problem = False, None

    def __init__(self, *token_ids):
        self._token_ids = token_ids

    def fill(self, bitmask):
        bitmask[:] = bitmask_of(self._token_ids, VOCAB)
        return bool(self._token_ids)


@pytest.mark.parametrize(
    "constraints",
    [
        [Allowing(0, 31), Allowing(32, 69)],
        [Allowing(0, 31), None],
        [None, Allowing(5), Allowing()],
        [Allowing(), Allowing(7), Allowing(8)],
        [Allowing(), None],
    ],
)
def test_each_row_keeps_its_own_tokens_and_the_models_logits_stay_as_they_are(constraints):
    logits = torch.rand(len(constraints), VOCAB)
    given = logits.clone()
    shaped = shape(logits, [Row(SamplingParams(max_tokens=1), 0, constraint=each) for each in constraints])
    assert torch.equal(logits, given)
    for row, before, constraint in zip(shaped, given, constraints, strict=True):
        kept = constraint._token_ids if constraint is not None and constraint._token_ids else range(VOCAB)
        assert row.isfinite().nonzero().flatten().tolist() == list(kept)
        assert torch.equal(row[row.isfinite()], before[row.isfinite()])


def test_bits_spread_on_the_device_as_on_the_host():
    bits = np.random.default_rng(0).integers(-(2**31), 2**31, (3, 3), dtype=np.int32)
    wanted = np.unpackbits(bits.view(np.uint8), axis=1, count=VOCAB, bitorder="little").astype(bool)
    assert np.array_equal(spread(torch.from_numpy(bits), VOCAB).numpy(), wanted)
