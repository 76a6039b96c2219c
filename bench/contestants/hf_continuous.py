"""Hugging Face transformers' continuous batching: its manager's thread steps, we add requests and read the outputs."""

import sys
import time
from typing import Any

import torch
import transformers
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from bench.contestants.hf_generate import load
from bench.contestants.protocol import Answer, Job, answer_jobs
from bench.streams import Stream

_PAGE_SIZE = 32
_DEADLINE_SECONDS = 600


class Continuous:
    """Options: model_dir, dtype, device, threads, sequences and tokens (the most of a job, to size the cache)."""

    def __init__(self, options: dict[str, Any]) -> None:
        """Load the checkpoint and start the manager. No block sharing: every round brings the same prompts."""
        torch.set_num_threads(options["threads"])
        self._model = load(options)
        pages = -(-options["tokens"] // _PAGE_SIZE) + 1
        config = transformers.GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)  # type: ignore[no-untyped-call]
        self._manager = self._model.init_continuous_batching(
            generation_config=config,
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=_PAGE_SIZE, num_blocks=pages * options["sequences"], max_batch_tokens=options["batch_tokens"],
                max_requests_per_batch=options["sequences"], allow_block_sharing=False,
            ),
        )  # fmt: skip
        self._manager.start()
        attention = self._model.config._attn_implementation  # noqa: SLF001 - no public name tells it
        self.facts = {"version": transformers.__version__, "attention": attention}

    def run(self, job: Job) -> Answer:
        """Add all prompts, wait for all answers.

        Raises:
            RuntimeError: a request failed, or the manager's thread has ended.
        """
        started = time.perf_counter()
        names = self._manager.add_requests(
            inputs=list(map(list, job.prompts)), max_new_tokens=job.output_tokens, record_timestamps=True
        )
        done: dict[str, Stream] = {}
        while len(done) < len(names):
            result = self._manager.get_result(timeout=1)
            if result is None:
                if not self._manager.is_running() or time.perf_counter() - started > _DEADLINE_SECONDS:
                    raise RuntimeError("the manager of continuous batching has stopped")
            elif result.error:
                raise RuntimeError(result.error)
            elif result.is_finished():
                done[result.request_id] = Stream(started, tuple(result.timestamps), tuple(result.generated_tokens))
        return Answer(tuple(done[name] for name in names))


if __name__ == "__main__":
    answer_jobs(Continuous, sys.argv[1:])
