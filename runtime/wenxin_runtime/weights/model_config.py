"""config.json and generation_config.json, in the spellings that ERNIE 4.5 checkpoints come in, as one frozen value."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wenxin_runtime.errors import CheckpointError

# The early hub code wrote Ernie4_5_ForCausalLM.
ARCHITECTURES = {
    "Ernie4_5ForCausalLM": "Ernie4_5ForCausalLM",
    "Ernie4_5_ForCausalLM": "Ernie4_5ForCausalLM",
    "Ernie4_5_MoeForCausalLM": "Ernie4_5_MoeForCausalLM",
}
_ARCHITECTURE_OF_MODEL_TYPE = {"ernie4_5": "Ernie4_5ForCausalLM", "ernie4_5_moe": "Ernie4_5_MoeForCausalLM"}
# As transformers calls them and as the hub's configurations do.
_VISION_MODEL_TYPES = ("ernie4_5_vl_moe", "ernie4_5_moe_vl")
_PER_MODALITY = ("moe_num_experts", "moe_intermediate_size", "moe_layer_start_index", "moe_layer_end_index")
_VISION = "this is a vision-language model, and this release serves text models; use a repository without -VL"
_DENSE_HEAD_DIM = 128  # transformers' default
_DEFAULT_ROPE_THETA = 500_000.0
_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class MoEConfig:
    """The mixture of experts in some of the layers.

    Attributes:
        layers: Indices of the layers that have experts; the others are dense.
        num_experts: Routed experts of such a layer.
        top_k: How many of them each token goes through.
        expert_size: Width of one expert's MLP.
        num_shared: Experts that every token goes through, stored as one MLP of `num_shared * expert_size`.
        norm_min: Least divisor when the weights of the chosen experts are scaled to a sum of 1.
    """

    layers: frozenset[int]
    num_experts: int
    top_k: int
    expert_size: int
    num_shared: int
    norm_min: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The shape of an ERNIE 4.5 text model. Nothing here has a default: a checkpoint says what it is.

    Attributes:
        architecture: Canonical name, a key of `wenxin_runtime.models.MODELS`.
        head_dim: Width of one head; on the 0.3B it is not hidden_size / num_heads.
        context_length: Positions the model was trained for (`max_position_embeddings`).
        dtype: Stored dtype by config.json, None where it does not say.
        eos_token_ids: Tokens that end an answer.
        moe: None for a dense model.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    context_length: int
    tie_word_embeddings: bool
    use_bias: bool
    dtype: str | None
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    moe: MoEConfig | None

    @property
    def head_bias(self) -> bool:
        """Whether the head has a bias: transformers gives it one by `use_bias` in the mixture of experts only."""
        return self.use_bias and self.moe is not None


def read_model_config(model_dir: Path) -> ModelConfig:
    """Read and check the configuration.

    Raises:
        CheckpointError: no such directory, no config.json, malformed JSON, an architecture, format or field value
            that this runtime does not serve. The message names the file and the field.
    """
    if not model_dir.is_dir():
        raise CheckpointError(f"{model_dir} is not a directory; give the directory that holds config.json")
    path = model_dir / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; give the directory that save_pretrained wrote or the hub serves")
    raw = _Fields(path, read_json(path))
    _refuse_vision(raw)
    architecture = _architecture(raw)
    _refuse_unserved(raw)
    num_heads = raw.positive("num_attention_heads")
    hidden_size = raw.positive("hidden_size")
    config = ModelConfig(
        architecture=architecture,
        vocab_size=raw.positive("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=raw.positive("intermediate_size"),
        num_layers=raw.positive("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=raw.positive("num_key_value_heads", num_heads),
        head_dim=raw.positive("head_dim", _default_head_dim(raw, architecture, hidden_size // num_heads)),
        rms_norm_eps=raw.number("rms_norm_eps", 1e-5),
        rope_theta=_rope_theta(raw),
        context_length=raw.positive("max_position_embeddings"),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", default=True)),
        use_bias=bool(raw.get("use_bias", default=False)),
        dtype=_dtype(raw),
        bos_token_id=raw.get("bos_token_id"),
        eos_token_ids=_eos_token_ids(model_dir, raw),
        moe=_moe(raw) if architecture == "Ernie4_5_MoeForCausalLM" else None,
    )
    if config.num_heads % config.num_kv_heads:
        raise raw.error("num_key_value_heads", f"must divide num_attention_heads {config.num_heads}")
    if config.head_dim % 2:
        raise raw.error("head_dim", "must be even, rotary embedding turns pairs")
    return config


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: the file cannot be read, or is no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object; download it again")
    return content


@dataclass(frozen=True, slots=True)
class _Fields:
    """Typed access to a JSON object; an error names file and field."""

    path: Path
    content: dict[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        value = self.content.get(name)
        return default if value is None else value

    def positive(self, name: str, default: int | None = None) -> int:
        return self.whole(name, default, least=1)

    def whole(self, name: str, default: int | None = None, least: int = 0) -> int:
        value = self.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            demand = "positive whole number" if least == 1 else f"whole number of at least {least}"
            raise self.error(name, f"must be a {demand}")
        return value

    def number(self, name: str, default: float) -> float:
        value = self.get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise self.error(name, "must be a positive number")
        return float(value)

    def error(self, name: str, demand: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {name} {demand}, got {self.content.get(name)!r}")


def _refuse_vision(raw: _Fields) -> None:
    """Tell a vision-language model by its name, its parts, or its lists: one value for text, one for images."""
    names = (*(raw.get("architectures") or ()), raw.get("model_type", ""))
    lists = [name for name in _PER_MODALITY if isinstance(raw.get(name), list)]
    if any("_VL" in name or name in _VISION_MODEL_TYPES for name in names) or "vision_config" in raw.content or lists:
        sign = f"{lists[0]} {raw.content[lists[0]]}" if lists else ", ".join(filter(None, names))
        raise CheckpointError(f"{raw.path}: {_VISION} (told by {sign or 'vision_config'})")


def _default_head_dim(raw: _Fields, architecture: str, even_share: int) -> int:
    """As transformers: the dense model has a default of its own, unless the file says null."""
    return _DENSE_HEAD_DIM if architecture == "Ernie4_5ForCausalLM" and "head_dim" not in raw.content else even_share


def _architecture(raw: _Fields) -> str:
    names = raw.get("architectures") or [_ARCHITECTURE_OF_MODEL_TYPE.get(raw.get("model_type", ""), "")]
    for name in names:
        if name in ARCHITECTURES:
            return ARCHITECTURES[name]
    served = ", ".join(sorted(set(ARCHITECTURES.values())))
    raise CheckpointError(f"{raw.path}: architectures {names} is not served by this release; it serves {served}")


def _refuse_unserved(raw: _Fields) -> None:
    """Refuse what would load and then compute something else than the checkpoint means."""
    quantization = raw.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        raise CheckpointError(
            f"{raw.path}: quantization_config ({method}) is not served by this release; "
            "use the unquantised checkpoint of the same model"
        )
    if raw.get("hidden_act", "silu") not in ("silu", "swish"):
        raise raw.error("hidden_act", "must be silu")
    if raw.get("compression_ratio", 1.0) != 1.0:
        raise raw.error("compression_ratio", "must be 1.0")


def _moe(raw: _Fields) -> MoEConfig:
    """Read the experts; what a file leaves out is as in transformers' Ernie4_5_MoeConfig. End -1 is the last layer."""
    num_layers = raw.positive("num_hidden_layers")
    start, interval = raw.whole("moe_layer_start_index", 1), raw.positive("moe_layer_interval", 1)
    end = raw.whole("moe_layer_end_index", -1, least=-1)
    last = num_layers - 1 if end == -1 else end
    experts, top_k = _spelled(raw, "moe_num_experts", "num_experts"), _spelled(raw, "moe_k", "num_experts_per_tok")
    config = MoEConfig(
        layers=frozenset(i for i in range(num_layers) if (i + 1) % interval == 0 and start <= i <= last),
        num_experts=raw.positive(experts),
        top_k=raw.positive(top_k),
        expert_size=raw.positive("moe_intermediate_size"),
        num_shared=raw.whole("moe_num_shared_experts", 2),
        norm_min=raw.number("moe_norm_min", 1e-12),
    )
    if config.top_k > config.num_experts:
        raise raw.error(top_k, f"must be at most {experts} {config.num_experts}")
    return config


def _spelled(raw: _Fields, ours: str, others: str) -> str:
    """Choose between two spellings that transformers takes for the same."""
    return others if raw.get(ours) is None and raw.get(others) is not None else ours


def _rope_theta(raw: _Fields) -> float:
    """Read either spelling: rope_theta and rope_scaling (hub), or rope_parameters (transformers 5)."""
    for name in ("rope_scaling", "rope_parameters"):
        settings = raw.get(name, {})
        kind = settings.get("rope_type", settings.get("type", "default")) if isinstance(settings, dict) else settings
        if kind != "default":
            raise raw.error(name, "must be of type default")
    theta = raw.get("rope_parameters", {}).get("rope_theta")
    return float(theta) if theta is not None else raw.number("rope_theta", _DEFAULT_ROPE_THETA)


def _dtype(raw: _Fields) -> str | None:
    for name in ("dtype", "torch_dtype"):
        value = raw.get(name)
        if value is not None and value not in _DTYPES:
            raise raw.error(name, f"must be one of {', '.join(_DTYPES)}")
        if value is not None:
            return str(value)
    return None


def _eos_token_ids(model_dir: Path, raw: _Fields) -> tuple[int, ...]:
    """As transformers' generate: generation_config.json first, else config.json; one id or a list."""
    path = model_dir / "generation_config.json"
    sources = [_Fields(path, read_json(path)), raw] if path.is_file() else [raw]
    for source in sources:
        value = source.get("eos_token_id")
        ids = value if isinstance(value, list) else [value]
        if value is not None:
            if not all(isinstance(token, int) and token >= 0 for token in ids):
                raise source.error("eos_token_id", "must be a token id or a list of them")
            return tuple(ids)
    return ()
