"""Checkpoint directories, one per family of tokenizers, that transformers can open as the reference."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from wenxin_runtime import fixture

CORPUS = [
    "北京的天气很好，我们去公园散步。The weather in Beijing is fine, let us walk in the park.",
    "def main() -> int:\n    return sum(range(10))\n",
    "0123456789 3.14 2026-01-01 naïve café 😀👍🏽 ﬁ",
] * 3

FAMILIES = ("byte_fallback", "byte_level", "metaspace_with_bos")


def write_settings(directory: Path, settings: dict[str, Any]) -> None:
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")


def _byte_level() -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<s>", "</s>", "<|begin_of_sentence|>", "<|end_of_sentence|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def _metaspace_with_bos() -> Backend:
    """As the first Llama: a space before the text, stripped again on decoding, and BOS from the post-processor."""
    specials = ["<unk>", "<s>", "</s>", "<|begin_of_sentence|>", "<|end_of_sentence|>"]
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    letters = sorted({"▁", *"abcdefghijklmnopqrstuvwxyzTB0123456789北京天气.,"})
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("北", "京")]
    tokens = [*specials, *bytes_, *letters, *("".join(pair) for pair in merges)]
    model = models.BPE(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=merges,
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )
    backend = Backend(model)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return backend


def write_checkpoint(directory: Path, family: str) -> Path:
    """Write a checkpoint that AutoTokenizer opens; its weights are the tiny fixture's."""
    fixture.write(directory)
    if family != "byte_fallback":
        backend = _byte_level() if family == "byte_level" else _metaspace_with_bos()
        backend.save(str(directory / "tokenizer.json"))
        settings = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
        named = {"bos_token": "<s>", "eos_token": "</s>"}
        named |= {"cls_token": "<|begin_of_sentence|>", "sep_token": "<|end_of_sentence|>"}
        write_settings(directory, {**named, "chat_template": settings["chat_template"]})
    return directory


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: write_checkpoint(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> Path:
    return checkpoints[request.param]
