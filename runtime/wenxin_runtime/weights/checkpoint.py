"""A model directory that has been found complete and consistent, before a byte of it goes to a device."""

from dataclasses import dataclass
from pathlib import Path

from wenxin_runtime.errors import CheckpointError
from wenxin_runtime.weights.model_config import ModelConfig, read_model_config
from wenxin_runtime.weights.names import PADDLE, Shapes, active_parameters, expected_shapes, is_unused
from wenxin_runtime.weights.safetensors import DTYPES, StoredTensor, find_tensors


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Configuration and tensors; `tensors` holds exactly what the model reads, each of the right shape."""

    model_dir: Path
    config: ModelConfig
    tensors: dict[str, StoredTensor]

    @property
    def parameters(self) -> int:
        """Elements of all tensors; a tied head counts once."""
        return sum(tensor.elements for tensor in self.tensors.values())

    @property
    def active_parameters(self) -> int:
        """Elements that one token is computed with."""
        return active_parameters(self.config)

    @property
    def bytes(self) -> int:
        """Size of all tensors in the files."""
        return sum(tensor.end - tensor.start for tensor in self.tensors.values())

    @property
    def dtype(self) -> str:
        """The dtype that config.json states, else that of the first tensor."""
        first = next(iter(self.tensors.values()))
        return self.config.dtype or DTYPES[first.dtype][0]


def open_checkpoint(model_dir: str | Path) -> Checkpoint:
    """Read configuration and headers and check names and shapes.

    Raises:
        CheckpointError: says which file is wrong and what to do.
    """
    directory = Path(model_dir)
    try:
        config = read_model_config(directory)
        found = find_tensors(directory)
    except OSError as error:
        raise CheckpointError(f"{directory} cannot be read: {error}") from error
    expected = expected_shapes(config)
    _refuse_paddle(found, expected)
    _refuse_wrong_names(directory, found, expected, config)
    _refuse_wrong_shapes(found, expected)
    return Checkpoint(directory, config, {name: found[name] for name in expected})


def _refuse_paddle(found: dict[str, StoredTensor], expected: Shapes) -> None:
    """Paddle stores linear weights as [in, out], some of them fused; see reference in names.py."""
    for name, tensor in found.items():
        wanted = expected.get(name, ())
        transposed = len(wanted) == 2 and wanted[0] != wanted[1] and tensor.shape == wanted[::-1]
        if PADDLE.search(name) or transposed:
            sign = f"shape {list(tensor.shape)}" if transposed else "its name"
            raise CheckpointError(
                f"{tensor.file}: this is the Paddle layout (tensor {name}, by {sign}); "
                "use the repository of the same model whose name ends in -PT"
            )


def _refuse_wrong_names(directory: Path, found: dict[str, StoredTensor], expected: Shapes, config: ModelConfig) -> None:
    missing = sorted(expected.keys() - found.keys())
    if missing:
        raise CheckpointError(
            f"{directory}: {len(missing)} of {len(expected)} tensors are missing, first {missing[0]}; "
            "config.json and the safetensors files do not belong together, or the download is incomplete"
        )
    for name in sorted(found.keys() - expected.keys()):
        if not is_unused(name, config):
            raise CheckpointError(
                f"{found[name].file}: unexpected tensor {name}; config.json and the file do not belong together"
            )


def _refuse_wrong_shapes(found: dict[str, StoredTensor], expected: Shapes) -> None:
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise CheckpointError(
                f"{found[name].file}: tensor {name} has shape {list(found[name].shape)}; "
                f"config.json wants {list(shape)}"
            )
