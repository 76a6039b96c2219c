"""Tensors that are read while the model serves: the files may be other ones by then."""

import os
from pathlib import Path

import pytest
import torch

from wenxin_runtime import fixture
from wenxin_runtime.weights.checkpoint import open_checkpoint
from wenxin_runtime.weights.loading import CheckpointSource, Rereading

NAME = "model.layers.1.mlp.experts.3.down_proj.weight"
CPU = torch.device("cpu")


@pytest.fixture
def model_dir(tmp_path) -> Path:
    fixture.write(tmp_path, arch="ernie4_5_moe", size="tiny")
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tensor_is_the_one_that_was_loaded(model_dir, dtype):
    checkpoint = open_checkpoint(model_dir)
    assert torch.equal(Rereading(checkpoint, dtype)(NAME), CheckpointSource(checkpoint, CPU, dtype)(NAME))


def test_a_file_that_was_written_anew_is_refused(model_dir):
    checkpoint = open_checkpoint(model_dir)
    read = Rereading(checkpoint, torch.float32)
    file = checkpoint.tensors[NAME].file
    os.utime(file, ns=(0, 0))
    with pytest.raises(OSError, match=f"{file.name} has changed since the model was loaded"):
        read(NAME)


def test_a_file_that_is_gone_is_an_error_and_not_the_end_of_the_process(model_dir):
    checkpoint = open_checkpoint(model_dir)
    read = Rereading(checkpoint, torch.float32)
    file = checkpoint.tensors[NAME].file
    file.unlink()
    with pytest.raises(FileNotFoundError, match=file.name):
        read(NAME)
