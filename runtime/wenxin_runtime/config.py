"""The runtime's settings: one frozen dataclass, parsed once; a flag's default is the field's default.

Imports no torch: `wenxin-runtime --help` and the server process stay light.
"""

import argparse
import dataclasses
import math
from dataclasses import dataclass

import msgspec

from wenxin_runtime.errors import ConfigError
from wenxin_runtime.flags import add_field_flags, flag_of
from wenxin_runtime.flags import flag as _flag

__all__ = ["RuntimeConfig", "add_flags", "flag_of", "from_args", "from_json", "to_json"]

_AT_LEAST_ONE = (
    "tensor_parallel_size",
    "data_parallel_size",
    "nnodes",
    "max_num_seqs",
    "block_size",
    "max_model_len",
    "max_num_batched_tokens",
    "kv_cache_memory_bytes",
    "cpu_threads",
    "max_request_bytes",
    "cache_max_entry_bytes",
)
_NOT_NEGATIVE = (
    "queue_size",
    "shutdown_delay",
    "drain_timeout",
    "max_logprobs",
    "engine_stall_timeout",
    "num_redundant_experts",
    "node_rank",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeConfig:
    """How to serve one checkpoint. Field `max_num_seqs` is flag `--max-num-seqs`, and so on."""

    model_dir: str
    host: str = _flag("127.0.0.1", "address to listen on; 0.0.0.0 in a pod")
    port: int = _flag(8000, "HTTP port; 0 picks a free one and prints it")
    grpc_port: int | None = _flag(
        None,
        "port for the KServe v2 protocol over gRPC; 0 picks a free one; needs the extra `grpc` (default: no gRPC)",
    )
    served_model_name: tuple[str, ...] = _flag(
        (), "name(s) that requests may use (default: the directory's name)", nargs="+"
    )
    device: str = _flag("auto", "auto takes a GPU where torch finds one", choices=("auto", "cpu", "cuda"))
    dtype: str = _flag(
        "auto", "auto: bfloat16 on a GPU, float32 on a CPU", choices=("auto", "float32", "bfloat16", "float16")
    )
    quantization: str = _flag(
        "none",
        "int8: weights are rounded to 8 bits as they are loaded, with scales",
        choices=("none", "int8"),
    )
    enforce_eager: bool = _flag(
        False,
        "on a GPU, launch every kernel from the host: starts faster, decodes slower than CUDA graphs",
        action=argparse.BooleanOptionalAction,
    )
    tensor_parallel_size: int = _flag(1, "devices that share every layer, one process each")
    data_parallel_size: int = _flag(
        1, "groups of --tensor-parallel-size devices; each computes the attention of other requests"
    )
    enable_expert_parallel: bool = _flag(
        False,
        "spread whole experts over all devices of all groups, not a part of each over those of a group",
        action=argparse.BooleanOptionalAction,
    )
    num_redundant_experts: int = _flag(
        0, "with expert parallelism: places for copies of the busiest experts of each layer, all devices together"
    )
    enable_one_shot_all_reduce: bool = _flag(
        False,
        "add up small tensors between the GPUs of one node in one kernel over peer memory, not by NCCL; "
        "not measured yet, so off",
        action=argparse.BooleanOptionalAction,
    )
    nnodes: int = _flag(1, "machines that the devices are spread over evenly; the same flags go to each of them")
    node_rank: int = _flag(0, "number of this machine; 0 serves the requests, the others compute with it")
    master_addr: str = _flag("127.0.0.1", "name or address of machine 0, as the others reach it")
    master_port: int = _flag(29500, "port on machine 0 at which its own and the others' processes report")
    max_model_len: int | None = _flag(None, "longest prompt plus answer in tokens (default: the checkpoint's context)")
    max_num_seqs: int = _flag(32, "sequences that run at the same time (the slots)")
    queue_size: int = _flag(100, "requests that may wait for a slot; one more is answered 503 with Retry-After")
    max_num_batched_tokens: int | None = _flag(None, "token budget of one step (default: 512 on a CPU, 8192 on a GPU)")
    block_size: int = _flag(16, "tokens in one block of the KV cache")
    kv_cache_memory_bytes: int | None = _flag(None, "size of the KV cache (default: what fits; on a CPU at most 2 GiB)")
    gpu_memory_utilization: float = _flag(0.9, "share of the GPU's memory for weights, activations and KV cache")
    enable_prefix_caching: bool = _flag(
        True, "reuse KV blocks of equal prompt prefixes", action=argparse.BooleanOptionalAction
    )
    async_scheduling: bool | None = _flag(
        None,
        "launch each step before the tokens of the one before are read (default: on a GPU)",
        action=argparse.BooleanOptionalAction,
    )
    seed: int = _flag(0, "seed for requests that bring none")
    cpu_threads: int | None = _flag(None, "threads of one operator on a CPU (default: the cores this process may use)")
    max_logprobs: int = _flag(20, "most alternatives a request may ask for per token")
    max_request_bytes: int = _flag(16 * 2**20, "largest HTTP request body in bytes; a larger one is answered 413")
    chat_template: str | None = _flag(None, "file with a Jinja chat template that replaces the checkpoint's own")
    reasoning_parser: str = _flag(
        "auto",
        "tell thoughts from answers: auto where the chat template or the vocabulary has <think>",
        choices=("auto", "none", "ernie45"),
    )
    tool_call_parser: str = _flag(
        "auto",
        "find tool calls in answers: auto where the chat template shows tools and writes <tool_call>",
        choices=("auto", "none", "ernie45"),
    )
    shutdown_delay: float = _flag(
        5.0, "seconds after SIGTERM in which new requests are still served (endpoints catch up)"
    )
    drain_timeout: float = _flag(300.0, "seconds after the delay in which accepted requests may finish")
    engine_stall_timeout: float = _flag(
        300.0, "seconds without progress after which the engine is given up and the process ends; 0: never"
    )
    otlp_endpoint: str | None = _flag(
        None,
        "OTLP/HTTP collector to send traces to, for example http://collector:4318; needs the extra `tracing` "
        "(default: what the OTEL_* variables say, else no traces)",
    )
    enable_debug_endpoints: bool = _flag(
        False,
        "serve /debug/state and /debug/profile to whoever reaches the port; a profile slows streams down",
        action=argparse.BooleanOptionalAction,
    )
    redis_url: str | None = _flag(
        None,
        "keep answers to repeated prompts here: redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], rediss:// for TLS, "
        "unix://PATH, redis+sentinel://HOST[:PORT],.../MASTER or redis+cluster://HOST[:PORT],...; better in the "
        "variable WENXIN_REDIS_URL, which no list of processes shows (default: no cache)",
    )
    redis_url_file: str | None = _flag(
        None,
        "file with that URL, such as a mounted Secret; it may come late, and is read again when Redis fails "
        "(default: $WENXIN_REDIS_URL_FILE)",
    )
    redis_ca_file: str | None = _flag(
        None,
        "PEM file with the authorities that vouch for a Redis with TLS "
        "(default: $WENXIN_REDIS_CA_FILE, else the system's)",
    )
    cache_ttl: float = _flag(3600.0, "seconds that an answer is kept in Redis, give or take a tenth")
    cache_match: str = _flag(
        "any",
        "which answers are repeated: any, or only those that are greedy or drawn with a seed of the request's own",
        choices=("any", "deterministic"),
    )
    cache_max_entry_bytes: int = _flag(2**20, "largest answer that is kept in Redis")
    log_level: str = _flag("info", "log level", choices=("debug", "info", "warning", "error"))

    def __post_init__(self) -> None:
        """Refuse values that no checkpoint can be served with.

        Raises:
            ConfigError: names the flag.
        """
        for name in _AT_LEAST_ONE:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{flag_of(name)} must be at least 1, got {value}")
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{flag_of(name)} must not be negative or endless, got {getattr(self, name)}")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"--port must lie between 0 and 65535, got {self.port}")
        if not 0 <= (self.grpc_port or 0) <= 65535:
            raise ConfigError(f"--grpc-port must lie between 0 and 65535, got {self.grpc_port}")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ConfigError(f"--gpu-memory-utilization must lie in (0, 1], got {self.gpu_memory_utilization}")
        if not 1 <= self.cache_ttl < math.inf:
            raise ConfigError(f"--cache-ttl must be at least one second, got {self.cache_ttl}")
        self._check_ranks()

    @property
    def world_size(self) -> int:
        """Devices that compute one model, one process each."""
        return self.tensor_parallel_size * self.data_parallel_size

    @property
    def ranks_of_node(self) -> int:
        """Those of them on one machine."""
        return self.world_size // self.nnodes

    def _check_ranks(self) -> None:
        if not 0 < self.master_port <= 65535:
            raise ConfigError(f"--master-port must lie between 1 and 65535, got {self.master_port}")
        if self.node_rank >= self.nnodes:
            raise ConfigError(f"--node-rank {self.node_rank} must be less than --nnodes {self.nnodes}")
        if self.world_size % self.nnodes:
            raise ConfigError(
                f"--nnodes {self.nnodes} does not divide the {self.world_size} devices of --tensor-parallel-size "
                f"{self.tensor_parallel_size} and --data-parallel-size {self.data_parallel_size}"
            )
        if self.num_redundant_experts and not self.enable_expert_parallel:
            raise ConfigError("--num-redundant-experts needs --enable-expert-parallel: else no expert is busier here")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the positional MODEL_DIR and one flag per field of RuntimeConfig."""
    parser.add_argument(
        "model_dir", metavar="MODEL_DIR", help="directory with config.json, *.safetensors and tokenizer.json"
    )
    add_field_flags(parser, RuntimeConfig, leave_out=("model_dir",))


def from_args(args: argparse.Namespace) -> RuntimeConfig:
    """Build the config from parsed flags.

    Raises:
        ConfigError: a value is out of range.
    """
    values = {spec.name: getattr(args, spec.name) for spec in dataclasses.fields(RuntimeConfig)}
    values["served_model_name"] = tuple(values["served_model_name"])
    return RuntimeConfig(**values)


def to_json(config: RuntimeConfig) -> str:
    """Spell `config` for the engine process's --config; `from_json` is the way back.

    But for the server's own secret: every user of the machine can read a command line.
    """
    return msgspec.json.encode(dataclasses.replace(config, redis_url=None)).decode()


def from_json(text: str) -> RuntimeConfig:
    """Build the config that `to_json` spelled."""
    return msgspec.json.decode(text, type=RuntimeConfig)
