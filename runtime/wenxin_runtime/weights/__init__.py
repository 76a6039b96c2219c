"""Reading a checkpoint as `save_pretrained` writes it, and refusing every other directory with a reason and a remedy.

model_config    config.json and generation_config.json -> ModelConfig
safetensors     headers of one file, or of the shards of an index
names           ModelConfig -> the names and shapes that the files must hold
checkpoint      all of these put together: a Checkpoint is complete and consistent
digest          the identity of the whole directory
facts           what `wenxin-runtime inspect` prints
loading         the tensors themselves; the only module here that needs torch
"""

from wenxin_runtime.weights.checkpoint import Checkpoint, open_checkpoint
from wenxin_runtime.weights.facts import Facts, inspect
from wenxin_runtime.weights.model_config import ModelConfig, read_model_config

__all__ = ["Checkpoint", "Facts", "ModelConfig", "inspect", "open_checkpoint", "read_model_config"]
