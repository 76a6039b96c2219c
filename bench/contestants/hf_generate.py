"""Hugging Face transformers' `generate`: all prompts as one left-padded batch."""

import sys
import time
from typing import Any

import torch
import transformers

from bench.contestants.protocol import Answer, Job, answer_jobs
from bench.streams import Stream


class _Clock(transformers.StoppingCriteria):
    """Notes the time of every generated token; never stops anything."""

    def __init__(self) -> None:
        self.arrivals: list[float] = []

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        self.arrivals.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


class Generate:
    """Options: model_dir, dtype, device, threads."""

    def __init__(self, options: dict[str, Any]) -> None:
        """Load the checkpoint."""
        torch.set_num_threads(options["threads"])
        self._device = options["device"]
        self._model = load(options)
        self.facts = {"version": transformers.__version__, "attention": self._model.config._attn_implementation}  # noqa: SLF001 - no public name tells it

    def run(self, job: Job) -> Answer:
        """Generate exactly `output_tokens` for each prompt."""
        longest = max(map(len, job.prompts))
        ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in job.prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in job.prompts]
        clock = _Clock()
        started = time.perf_counter()
        with torch.inference_mode():
            answer = self._model.generate(
                torch.tensor(ids, device=self._device), attention_mask=torch.tensor(mask, device=self._device),
                do_sample=False, min_new_tokens=job.output_tokens, max_new_tokens=job.output_tokens, pad_token_id=0,
                stopping_criteria=transformers.StoppingCriteriaList([clock]),
            )  # fmt: skip
        arrivals = tuple(clock.arrivals)
        return Answer(tuple(Stream(started, arrivals, tuple(row[longest:].tolist())) for row in answer))


def load(options: dict[str, Any]) -> Any:
    """Load the model as transformers does it by default, without a progress bar."""
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    dtype = getattr(torch, options["dtype"])
    return transformers.AutoModelForCausalLM.from_pretrained(options["model_dir"], dtype=dtype).to(options["device"])


if __name__ == "__main__":
    answer_jobs(Generate, sys.argv[1:])
