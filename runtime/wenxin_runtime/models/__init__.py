"""The models, by the canonical architecture name that `weights.model_config` reads from a checkpoint."""

from wenxin_runtime.models.ernie45 import Ernie45
from wenxin_runtime.models.ernie45_moe import ernie45_moe

MODELS = {"Ernie4_5ForCausalLM": Ernie45, "Ernie4_5_MoeForCausalLM": ernie45_moe}
