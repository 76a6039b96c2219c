"""The models that benchmarks run on: random weights in a released shape. Speed does not depend on their values."""

import random
import subprocess
import sys
from pathlib import Path

ARCHITECTURES = {"tiny": "ernie4_5", "0.3b": "ernie4_5", "21b-a3b": "ernie4_5_moe"}
VARIANTS: dict[str, dict[str, str]] = {
    "fp32": {"dtype": "float32"},
    "bf16": {"dtype": "bfloat16"},
    "int8": {"quantization": "int8"},
}
"""Name -> fields of RuntimeConfig. int8 is of the weights; activations have the device's own dtype."""

_SPECIAL_TOKENS = 10


def write_model(directory: Path, size: str, dtype: str = "bfloat16", arch: str | None = None) -> Path:
    """Write a checkpoint, by default in bfloat16, as the released ones are stored."""
    arch = arch or ARCHITECTURES[size]
    command = (sys.executable, "-m", "wenxin_runtime", "fixture", str(directory), f"--arch={arch}")
    subprocess.run([*command, f"--size={size}", f"--dtype={dtype}"], check=True, stdout=subprocess.DEVNULL)
    return directory


def stored_dtype(device: str) -> str:
    """Choose what a comparison's checkpoint is stored in.

    On a CPU float32, so that fp32 means four bytes a weight for everybody: of a bfloat16 checkpoint our engine keeps
    two, whatever it computes in.
    """
    return "float32" if device == "cpu" else "bfloat16"


def prompt(dice: random.Random, vocabulary: int, length: int) -> tuple[int, ...]:
    """Draw a prompt of ordinary tokens."""
    return tuple(dice.randrange(_SPECIAL_TOKENS, vocabulary) for _ in range(length))


def weight_bytes(variant: str) -> float:
    """Bytes per weight of a variant, scales left out."""
    return {"fp32": 4.0, "bf16": 2.0, "int8": 1.0}[variant]


def cache_bytes(variant: str, device: str) -> float:
    """Bytes per number in our KV cache: the dtype of the activations."""
    return 4.0 if variant == "fp32" or (variant == "int8" and device == "cpu") else 2.0


def variants_for(device: str) -> tuple[str, ...]:
    """What one would run there."""
    return tuple(VARIANTS) if device == "cpu" else ("bf16",)
