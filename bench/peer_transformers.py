"""The peer: Hugging Face transformers' own `generate`, in a process of its own: both sides start from the same memory.

Reads one JSON job from standard input, writes one JSON answer to standard output.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
import transformers

from bench.streams import Stream


class _Clock(transformers.StoppingCriteria):
    """Notes the time of every generated token; never stops anything."""

    def __init__(self) -> None:
        self.arrivals: list[float] = []

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        self.arrivals.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def generate(model: Any, prompts: Sequence[Sequence[int]], output_tokens: int) -> list[Stream]:
    """Answer all prompts as one left-padded batch, greedily, `output_tokens` each."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    clock = _Clock()
    started = time.perf_counter()
    with torch.inference_mode():
        answer = model.generate(
            ids, attention_mask=mask, do_sample=False, min_new_tokens=output_tokens, max_new_tokens=output_tokens,
            pad_token_id=0, stopping_criteria=transformers.StoppingCriteriaList([clock]),
        )  # fmt: skip
    return [Stream(started, tuple(clock.arrivals), tuple(row[longest:].tolist())) for row in answer]


def main() -> None:
    """Load the checkpoint, warm up, run every batch of the job."""
    job = json.load(sys.stdin)
    torch.set_num_threads(job["threads"])
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model = transformers.AutoModelForCausalLM.from_pretrained(job["model_dir"], dtype=getattr(torch, job["dtype"]))
    generate(model, [job["batches"][0][0]], 4)
    answers = [generate(model, batch, job["output_tokens"]) for batch in job["batches"]]
    json.dump([[dataclasses.asdict(stream) for stream in batch] for batch in answers], sys.stdout)


if __name__ == "__main__":
    main()
