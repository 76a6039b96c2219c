"""What the server process reads from a checkpoint: tokenizer, sizes, sampling defaults. No weights."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.errors import CheckpointError
from wenxin_runtime.grammars import Grammars
from wenxin_runtime.server.openai import chat_format
from wenxin_runtime.server.openai.chat_format import ChatFormat
from wenxin_runtime.tokenizer import Tokenizer
from wenxin_runtime.weights import Checkpoint

# Processor time. A schema of the largest size that is taken needs less than one.
_MOST_COMPILE_SECONDS = 3.0


class SamplingDefaults(msgspec.Struct, frozen=True):
    """generation_config.json's part in sampling; a request overrides each. Same fields as vLLM takes."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A checkpoint under the names that requests may use. `created` is in Unix seconds."""

    names: tuple[str, ...]
    created: int
    vocab_size: int
    tokenizer: Tokenizer
    grammars: Grammars
    defaults: SamplingDefaults
    chat_format: ChatFormat


def read(config: RuntimeConfig, checkpoint: Checkpoint) -> ServedModel:
    """Read what serving needs besides the weights.

    Raises:
        CheckpointError: the tokenizer or generation_config.json; the message names the file.
        ConfigError: --chat-template cannot be read.
    """
    tokenizer, model = Tokenizer.load(config.model_dir, config.chat_template), checkpoint.config
    return ServedModel(
        names=model_names(config),
        created=int(time.time()),
        vocab_size=model.vocab_size,
        tokenizer=tokenizer,
        grammars=Grammars(
            tokenizer,
            vocab_size=model.vocab_size,
            eos_token_ids=model.eos_token_ids,
            most_seconds=_MOST_COMPILE_SECONDS,
        ),
        defaults=_defaults(checkpoint.model_dir / "generation_config.json"),
        chat_format=chat_format.read(tokenizer, config),
    )


def model_names(config: RuntimeConfig) -> tuple[str, ...]:
    """Return the names that requests may use, at least one."""
    return config.served_model_name or (Path(config.model_dir).resolve().name,)


def _defaults(path: Path) -> SamplingDefaults:
    if not path.is_file():
        return SamplingDefaults()
    try:
        # Not decoded in one go: save_pretrained writes values that msgspec's JSON refuses, such as Infinity.
        return msgspec.convert(json.loads(path.read_bytes()), SamplingDefaults)
    except (ValueError, msgspec.ValidationError) as error:
        raise CheckpointError(f"{path}: {error}") from error
