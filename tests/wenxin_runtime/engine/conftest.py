import pytest
import torch

from tests.wenxin_runtime.engine_driver import VOCAB, engine_of
from tests.wenxin_runtime.groups_in_turn import GroupsInTurn
from wenxin_runtime import fixture
from wenxin_runtime.engine.admission import Admission
from wenxin_runtime.engine.engine import Engine
from wenxin_runtime.engine.kv_blocks import BlockPools
from wenxin_runtime.engine.runner import Runner
from wenxin_runtime.engine.scheduler import Limits, Scheduler

BLOCK = 16


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The tiny fixture checkpoint."""
    return fixture.write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def loaded(tiny):
    """A model with a cache, from which engines of any limits are made: loading once is enough."""
    return engine_of(tiny, max_model_len=512, max_num_seqs=8)._runner


@pytest.fixture(scope="session")
def make(loaded):
    def engine(
        *,
        blocks=200,
        slots=8,
        budget=512,
        beside=None,
        caching=True,
        eos=(),
        model_len=512,
        asynchronous=False,
        constrain=None,
        runner_type=Runner,
        groups=1,
    ) -> Engine:
        cache = torch.zeros_like(loaded._kv_cache[:, :blocks])
        runner = runner_type(GroupsInTurn(loaded._model, cache, groups) if groups > 1 else loaded._model, cache)
        limits = Limits(slots, budget, beside or budget)
        scheduler = Scheduler(limits, BlockPools(groups, blocks, BLOCK, prefix_caching=caching))
        admission = Admission(vocab_size=VOCAB, max_model_len=model_len, eos_token_ids=eos, seed=0, constrain=constrain)
        return Engine(runner, scheduler, admission, asynchronous=asynchronous)

    return engine
