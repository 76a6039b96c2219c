"""A checkpoint of the dense model as a GGUF file, for llama.cpp. Runs in llama.cpp's environment: numpy and gguf.

Names and keys are those of llama.cpp's converter (`Ernie4_5Model`); q and k stay as they are, for both sides rotate
interleaved pairs. The file has no vocabulary: it is given token ids.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

FORMATS = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
_OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_INNER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write(model_dir: Path, out: Path, format_name: str) -> None:
    """Write `out`; matrices in the format, norms in float32 as llama.cpp's own tools leave them."""
    config = json.loads((model_dir / "config.json").read_text())
    matrix_type, file_type = FORMATS[format_name]
    writer = gguf.GGUFWriter(out, "ernie4_5")
    _write_keys(writer, config)
    writer.add_file_type(file_type)
    for name, values in _tensors(model_dir / "model.safetensors"):
        kind = matrix_type if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(_name(name), gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_keys(writer: Any, config: dict[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")


def _tensors(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every tensor of a safetensors file of bfloat16 or float32, as float32."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        raw = np.fromfile(path, dtype=np.uint8, count=end - start, offset=8 + size + start)
        if entry["dtype"] == "BF16":
            values = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            values = raw.view(np.float32)
        yield name, values.reshape(entry["shape"])


def _name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem in _OUTER:
        return f"{_OUTER[stem]}.{kind}"
    layer, _, inner = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{_INNER[inner]}.{kind}"


def main() -> None:
    """Write one file."""
    parser = argparse.ArgumentParser(prog="python -m bench.contestants.gguf_file", description=__doc__)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("format", choices=tuple(FORMATS))
    options = parser.parse_args()
    write(options.model_dir, options.out, options.format)


if __name__ == "__main__":
    main()
