"""What structured output costs over a vocabulary of ERNIE's size: compiling a grammar, and the mask of each token.

    python -m bench.structured            # less than a minute
    python -m bench.structured --quick    # a small vocabulary; writes nothing

The vocabulary is synthetic: 103,424 tokens, of bytes, Chinese characters and their runs, and words with and without a
space. Each grammar is followed along a random walk through the tokens that it allows.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers
import torch
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

from bench.environment import Recording, Row, write_result
from wenxin_runtime.engine.shaping import Row as SamplerRow
from wenxin_runtime.engine.shaping import shape
from wenxin_runtime.grammars import Grammars, bitmask_of
from wenxin_runtime.ipc import SamplingParams
from wenxin_runtime.tokenizer import Tokenizer

_VOCABULARY = 103_424
_SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
_BATCH = 32
_SYLLABLES = ("a", "e", "th", "er", "ing", "tion", "con", "pre", "re", "st", "le", "an", "or", "it", "is", "un", "al")
_COMMON = tuple(chr(0x4E00 + i) for i in range(1500))
_JSON = ('{"', '":', '": "', '",', '"}', "},", "[{", "}]", '":{', '":["', "{", "}", '"', ":", ",", "[", "]")

_PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}},
        "born": {"type": "string", "format": "date"},
    },
    "required": ["name", "age", "tags", "born"],
    "additionalProperties": False,
}
_WIDE = {
    "type": "object",
    "properties": {f"p{i}": {"enum": [f"v{j}" for j in range(20)]} for i in range(200)},
    "required": [f"p{i}" for i in range(200)],
}


class _Allowing:
    """A constraint whose mask costs nothing, to see what applying one costs."""

    finished = False
    problem = None

    def __init__(self) -> None:
        self._mask = bitmask_of(range(0, _VOCABULARY, 3), _VOCABULARY)

    def fill(self, bitmask: Any) -> bool:
        bitmask[:] = self._mask
        return True

    def advance(self, token_id: int) -> None:
        """Note nothing."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m bench.structured", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small vocabulary; writes nothing")
    parser.add_argument("--tokens", type=int, default=300, help="length of each walk (default: %(default)s)")
    options = parser.parse_args(arguments)
    size = 4096 if options.quick else _VOCABULARY
    recording = Recording(rates=False)
    tokenizer = _tokenizer(size)
    begun = time.perf_counter()
    grammars = Grammars(tokenizer, vocab_size=size, eos_token_ids=(2,))
    sorting = time.perf_counter() - begun
    rows = [_walk(name, grammar, grammars, size, options.tokens) for name, grammar in _grammars().items()]
    once: list[Row] = [
        {"what": "sort the vocabulary, at start-up", "ms": _ms(sorting)},
        {"what": f"apply masks to {_BATCH} rows of logits", "ms": _ms(_applying_seconds())},
    ]
    for row in (*rows, *once):
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    if not options.quick:
        plan = {"vocabulary": size, "tokens": options.tokens}
        write_result("structured", recording.facts(), {"grammars": rows, "once": once}, plan=plan)


def _grammars() -> dict[str, str]:
    schemas: dict[str, dict[str, Any]] = {
        "any JSON object": {"type": "object"},
        "4 properties": _PERSON,
        "200 properties": _WIDE,
    }
    options = {"x-guidance": {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,64}"}}
    found = {name: json.dumps({"grammars": [{"json_schema": {**each, **options}}]}) for name, each in schemas.items()}
    return found | {
        "regex, Chinese": "start: /[\u4e00-\u9fff]{50,}/",
        "regex, any text": "start: /(.|\\n)*/",
        "1000 choices": "start: " + " | ".join(json.dumps(f"choice number {i}") for i in range(1000)),
    }


def _walk(name: str, grammar: str, grammars: Grammars, size: int, tokens: int) -> Row:
    """Follow a grammar through random tokens; begin again where it ends."""
    begun = time.perf_counter()
    matcher = grammars.matcher(grammar)
    compiling = time.perf_counter() - begun
    chance = random.Random(1)
    mask = allocate_token_bitmask(1, size)
    seconds: list[float] = []
    for _ in range(tokens):
        if matcher.is_stopped():
            matcher = grammars.matcher(grammar)
        begun = time.perf_counter()
        fill_next_token_bitmask(matcher, mask)
        seconds.append(time.perf_counter() - begun)
        allowed = np.flatnonzero(np.unpackbits(mask[0].view(np.uint8), bitorder="little")[:size])
        matcher.consume_token(int(chance.choice(allowed)))
    quantiles = statistics.quantiles(seconds, n=100)
    return {
        "grammar": name,
        "compile_ms": _ms(compiling),
        "mask_ms_p50": _ms(statistics.median(seconds)),
        "mask_ms_p99": _ms(quantiles[98]),
        "mask_ms_max": _ms(max(seconds)),
    }


def _applying_seconds() -> float:
    logits = torch.randn(_BATCH, _VOCABULARY)
    rows = [SamplerRow(SamplingParams(max_tokens=1), seed=0, constraint=_Allowing()) for _ in range(_BATCH)]
    seconds = []
    for _ in range(10):
        begun = time.perf_counter()
        shape(logits, rows)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def _tokenizer(size: int) -> Tokenizer:
    """Make a tokenizer of ERNIE's kind with `size` tokens; it merges nothing, but it has them."""
    chance = random.Random(1)
    pieces = dict.fromkeys((*_SPECIALS, *(f"<0x{value:02X}>" for value in range(256)), "▁", *_JSON))
    pieces |= dict.fromkeys(chr(point) for point in range(0x21, 0x7F))
    pieces |= dict.fromkeys(chr(0x4E00 + i) for i in range(min(20_000, size // 5)))
    while len(pieces) < size:
        chinese = chance.random() < 0.5
        alphabet = _COMMON if chinese else _SYLLABLES
        start = "▁" if not chinese and chance.random() < 0.5 else ""
        pieces[start + "".join(chance.choices(alphabet, k=chance.randint(2, 4)))] = None
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    model = tokenizers.models.BPE(vocab=vocabulary, merges=[], byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    steps = [tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    backend.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    backend.decoder = tokenizers.decoders.Sequence(steps)
    backend.add_special_tokens([tokenizers.AddedToken(text, special=True, normalized=False) for text in _SPECIALS])
    return Tokenizer(backend)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


if __name__ == "__main__":
    main()
