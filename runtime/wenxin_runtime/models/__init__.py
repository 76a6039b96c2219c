"""The models, by the canonical architecture name that `weights.model_config` reads from a checkpoint."""

from wenxin_runtime.models.ernie45 import Ernie45

MODELS = {"Ernie4_5ForCausalLM": Ernie45}
