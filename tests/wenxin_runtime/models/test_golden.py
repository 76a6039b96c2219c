"""The same checkpoint says the same in every release: log probabilities that transformers computed once, kept.

The other tests compare with the transformers that is installed; these would notice if both sides moved.
`WRITE_GOLDEN=1 pytest tests/wenxin_runtime/models/test_golden.py` writes them anew, from transformers.
"""

import json
import os
from pathlib import Path

import pytest

from tests.wenxin_runtime.engine_driver import engine_of, finish, submit
from tests.wenxin_runtime.models import peer
from wenxin_runtime import fixture

GOLDEN = Path(__file__).with_name("golden.json")
# Tokens from all over the fixture's vocabulary.
TOKENS = [1, *range(10, 400, 13)]


@pytest.mark.parametrize("arch", ["ernie4_5", "ernie4_5_moe"])
def test_a_checkpoint_scores_a_text_as_it_did_in_every_release(tmp_path, arch):
    directory = fixture.write(tmp_path, arch=arch, seed=7)
    if os.environ.get("WRITE_GOLDEN"):
        scores = peer.logprobs(peer.load(directory), TOKENS)[range(len(TOKENS) - 1), TOKENS[1:]]
        kept = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
        kept[arch] = [round(score, 4) for score in scores.tolist()]
        GOLDEN.write_text(json.dumps(kept, indent=1) + "\n")
    answer = finish(engine_of(directory), [submit("a", TOKENS, max_tokens=1, prompt_logprobs=0)])["a"]
    scores = [entry.logprob for entry in answer.deltas[0].prompt_logprobs[1:]]
    assert scores == pytest.approx(json.loads(GOLDEN.read_text())[arch], abs=2e-3)
