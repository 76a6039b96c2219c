"""The headers of safetensors files: which tensor lies where. Reads no tensor.

A file is a little-endian u64 (length of the header), the header (JSON: name -> dtype, shape, data_offsets) and the
data, offsets counting from the data's start. https://huggingface.co/docs/safetensors
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wenxin_runtime.errors import CheckpointError
from wenxin_runtime.weights.model_config import read_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

# dtype tag -> (torch's name, bytes per element)
DTYPES = {"F32": ("float32", 4), "BF16": ("bfloat16", 2), "F16": ("float16", 2)}
_LONGEST_HEADER = 100_000_000  # the format's own limit


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies. `dtype` is the file's tag, `BF16`; the data is `file[start:end]`."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def find_tensors(model_dir: Path) -> dict[str, StoredTensor]:
    """List the tensors of model.safetensors, or of all shards of its index.

    Raises:
        CheckpointError: no safetensors file, a shard of the index is missing, a file is truncated or malformed.
    """
    index = model_dir / INDEX
    if index.is_file():
        return _sharded(model_dir, index)
    if (model_dir / SINGLE).is_file():
        return {tensor.name: tensor for tensor in read_header(model_dir / SINGLE)}
    raise CheckpointError(_why_no_safetensors(model_dir))


def read_header(path: Path) -> Iterator[StoredTensor]:
    """Read one file's header and check that the file is as long as the header says.

    Raises:
        CheckpointError: truncated or malformed file.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size, _LONGEST_HEADER):
                raise CheckpointError(f"{path} is truncated or no safetensors file ({size} bytes); download it again")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tensors = [_stored(path, name, entry, 8 + length) for name, entry in header.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} has a malformed safetensors header ({error}); download it again") from error
    wanted = max((tensor.end for tensor in tensors), default=8 + length)
    if wanted != size:
        raise CheckpointError(f"{path} is truncated: {size} bytes of {wanted}; download it again")
    yield from tensors


def _stored(path: Path, name: str, entry: dict[str, object], data_start: int) -> StoredTensor:
    start, end = (int(offset) for offset in entry["data_offsets"])  # type: ignore[attr-defined]
    shape = tuple(int(size) for size in entry["shape"])  # type: ignore[attr-defined]
    dtype = str(entry["dtype"])
    if dtype not in DTYPES:
        raise CheckpointError(
            f"{path}: tensor {name} is stored as {dtype}, which this release does not read; "
            f"it reads {', '.join(DTYPES)}: use the unquantised checkpoint of the same model"
        )
    if end - start != math.prod(shape) * DTYPES[dtype][1]:
        raise CheckpointError(
            f"{path}: tensor {name} of shape {list(shape)} has {end - start} bytes; download it again"
        )
    return StoredTensor(name, path, dtype, shape, data_start + start, data_start + end)


def _sharded(model_dir: Path, index: Path) -> dict[str, StoredTensor]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index} has no weight_map; download it again")
    shards = sorted(set(weight_map.values()))
    absent = [name for name in shards if not (model_dir / name).is_file()]
    if absent:
        raise CheckpointError(f"{model_dir}: {len(absent)} of {len(shards)} shards are missing: {_some(absent)}")
    found = {tensor.name: tensor for name in shards for tensor in read_header(model_dir / name)}
    lost = sorted(weight_map.keys() - found.keys())
    if lost:
        raise CheckpointError(f"{index} names tensors that no shard holds: {_some(lost)}; download the shards again")
    return found


def _why_no_safetensors(model_dir: Path) -> str:
    names = sorted(path.name for path in model_dir.iterdir())
    if any(name.endswith(".pdparams") for name in names):
        return (
            f"{model_dir} holds Paddle weights (.pdparams); use the repository of the same model whose name ends in -PT"
        )
    if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        return f"{model_dir} holds pickled torch weights; save the model again with save_pretrained, as safetensors"
    if any(name.endswith(".gguf") for name in names):
        return f"{model_dir} holds GGUF weights, which this runtime does not read; use the -PT repository of the model"
    return f"{model_dir} has neither {SINGLE} nor {INDEX}; is the download complete?"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
