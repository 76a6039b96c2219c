"""A tiny checkpoint in shards, and a download of it without a process of its own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save

from wenxin_runtime import fixture
from wenxin_runtime.download.options import DownloadOptions
from wenxin_runtime.download.session import Session

JUNK = {
    "pytorch_model.bin": b"pickle",
    "modeling_ernie.py": b"import os",
    "README.md": b"read me",
    ".gitattributes": b"*",
    "onnx/model.safetensors": b"another folder",
}


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a checkpoint of two shards."""
    folder = fixture.write(tmp_path_factory.mktemp("checkpoint"))
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    shards = {
        "model-00001-of-00002.safetensors": names[: len(names) // 2],
        "model-00002-of-00002.safetensors": names[len(names) // 2 :],
    }
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "model.safetensors"}
    found |= {shard: save({name: tensors[name] for name in members}) for shard, members in shards.items()}
    weight_map = {name: shard for shard, members in shards.items() for name in members}
    found["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    return found


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "volume" / "tiny"


def options(source: str, target: Path, **flags: Any) -> DownloadOptions:
    """Quick to give up, and small chunks: a shard has about nine."""
    quick = {"chunk_bytes": 65536, "retry_delay": 0.001, "stall_timeout": 20.0, "attempts": 4}
    return DownloadOptions(source=source, directory=target, **quick | flags)


async def fetched(
    source: str, target: Path, environment: Mapping[str, str] | None = None, **flags: Any
) -> dict[str, Any]:
    """Download as the command does, but for signals and the log."""
    return await Session(options(source, target, **flags), environment or {}).run()


def is_published(target: Path) -> bool:
    """Whether anything is to be seen."""
    return target.exists()


def held_by(target: Path) -> dict[str, bytes]:
    """What is in a directory, but for the downloader's own notes."""
    return {path.name: path.read_bytes() for path in target.iterdir() if not path.name.startswith(".")}
