"""llama.cpp through its C interface, batching as its own server does: running sequences and prompts share each batch.

Runs in llama.cpp's environment: numpy and llama_cpp.
"""

import ctypes
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import llama_cpp as ll
import numpy as np

from bench.contestants.protocol import Answer, Job, answer_jobs
from bench.streams import Stream

# llama-server's defaults: tokens of one llama_decode, and of one pass through the graph within it.
_BATCH_TOKENS = 2048
_PASS_TOKENS = 512


@dataclass(slots=True)
class _Sequence:
    """What is known of one sequence, how much of it is computed, and when each generated token came."""

    known: list[int]
    computed: int = 0
    arrivals: list[float] = field(default_factory=list)


class LlamaCpp:
    """Options: gguf, threads, sequences and tokens (the most of a job), kv (f32 or f16)."""

    def __init__(self, options: dict[str, Any]) -> None:
        """Load the file.

        Raises:
            RuntimeError: llama.cpp refused it.
        """
        ll.llama_backend_init()
        self._model = ll.llama_model_load_from_file(options["gguf"].encode(), ll.llama_model_default_params())
        params = ll.llama_context_default_params()
        params.n_ctx = options["sequences"] * (-(-options["tokens"] // 256) * 256)
        params.n_batch, params.n_ubatch = _BATCH_TOKENS, _PASS_TOKENS
        params.n_seq_max = options["sequences"]
        params.n_threads = params.n_threads_batch = options["threads"]
        params.type_k = params.type_v = {"f32": ll.GGML_TYPE_F32, "f16": ll.GGML_TYPE_F16}[options["kv"]]
        params.kv_unified = options["unified"]
        self._context = ll.llama_init_from_model(self._model, params) if self._model else None
        if not self._context:
            raise RuntimeError(f"llama.cpp could not load {options['gguf']}")
        self._vocabulary = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(self._model))
        self._batch = ll.llama_batch_init(_BATCH_TOKENS, 0, 1)
        self.facts = {"version": ll.__version__, "kv": options["kv"], "unified_kv": options["unified"]}

    def run(self, job: Job) -> Answer:
        """Decode until every sequence has its tokens, then forget them all."""
        sequences = [_Sequence(list(prompt)) for prompt in job.prompts]
        goals = [len(prompt) + job.output_tokens for prompt in job.prompts]
        started = time.perf_counter()
        while any(len(sequence.known) < goal for sequence, goal in zip(sequences, goals, strict=True)):
            self._step([(i, s) for i, s in enumerate(sequences) if len(s.known) < goals[i]])
        ll.llama_memory_clear(ll.llama_get_memory(self._context), True)
        streams = (
            Stream(started, tuple(sequence.arrivals), tuple(sequence.known[len(prompt) :]))
            for sequence, prompt in zip(sequences, job.prompts, strict=True)
        )
        return Answer(tuple(streams))

    def _step(self, open_sequences: list[tuple[int, _Sequence]]) -> None:
        """Compute what is known and not computed, sequences that generate first; draw a token where that is all."""
        self._batch.n_tokens = 0
        drawing: list[_Sequence] = []
        for number, sequence in sorted(open_sequences, key=lambda each: not each[1].arrivals):
            room = _BATCH_TOKENS - self._batch.n_tokens
            for position in range(sequence.computed, min(len(sequence.known), sequence.computed + room)):
                self._add(number, position, sequence.known[position], last=position + 1 == len(sequence.known))
                sequence.computed = position + 1
            if sequence.computed == len(sequence.known):
                drawing.append(sequence)
        if code := ll.llama_decode(self._context, self._batch):
            raise RuntimeError(f"llama_decode gave {code}")
        logits = np.ctypeslib.as_array(ll.llama_get_logits(self._context), (len(drawing), self._vocabulary))
        chosen = logits.argmax(axis=1)
        now = time.perf_counter()
        for sequence, token in zip(drawing, chosen.tolist(), strict=True):
            sequence.known.append(token)
            sequence.arrivals.append(now)

    def _add(self, sequence: int, position: int, token: int, *, last: bool) -> None:
        batch, row = self._batch, self._batch.n_tokens
        batch.token[row], batch.pos[row], batch.logits[row] = token, position, last
        batch.n_seq_id[row] = 1
        batch.seq_id[row][0] = ctypes.c_int32(sequence)
        batch.n_tokens = row + 1


if __name__ == "__main__":
    answer_jobs(LlamaCpp, sys.argv[1:])
