"""The spec as the runtime's command line. tests/contract holds every line to the runtime's own parser."""

from wenxin_operator.api.deployment import DeploymentSpec
from wenxin_operator.api.fields import seconds

PORT = 8000
GRPC_PORT = 8001  # Triton's own


def render(spec: DeploymentSpec, deployment: str) -> str:
    """One `--flag=value` per line, as `wenxin-runtime serve MODEL @FILE` reads them.

    Args:
        spec: The deployment's spec.
        deployment: Its name, which the model is served under unless the spec says otherwise.
    """
    engine, parallelism = spec.engine, spec.parallelism
    values: dict[str, object] = {
        "host": "0.0.0.0",
        "port": PORT,
        "grpc-port": GRPC_PORT if spec.grpc else None,
        "served-model-name": spec.served_name or deployment,
        "device": "cpu" if spec.accelerator.resource == "none" else "cuda",
        "dtype": spec.dtype,
        "quantization": spec.quantization if spec.quantization != "none" else None,
        "tensor-parallel-size": parallelism.tensor if parallelism.tensor != 1 else None,
        "data-parallel-size": parallelism.data if parallelism.data != 1 else None,
        "nnodes": parallelism.nodes if parallelism.nodes != 1 else None,
        "num-redundant-experts": parallelism.redundant_experts or None,
        "max-model-len": spec.max_model_len,
        "max-num-seqs": engine.max_num_seqs,
        "queue-size": engine.queue_size,
        "max-num-batched-tokens": engine.max_batched_tokens,
        "shutdown-delay": f"{seconds(spec.drain.delay):g}",
        "drain-timeout": f"{seconds(spec.drain.timeout):g}",
        "engine-stall-timeout": f"{seconds(engine.stall_timeout):g}" if engine.stall_timeout else None,
        "otlp-endpoint": spec.monitoring.otlp_endpoint,
        "cache-ttl": f"{seconds(spec.answer_cache.ttl):g}" if spec.answer_cache else None,
        "cache-match": spec.answer_cache.match.lower() if spec.answer_cache else None,
    }
    # What is not asked for is left out: an image of an older release, which lacks the flag, goes on being served.
    lines = [f"--{flag}={value}" for flag, value in values.items() if value is not None]
    if parallelism.expert:
        lines.append("--enable-expert-parallel")
    lines.append("--enable-prefix-caching" if engine.prefix_caching else "--no-enable-prefix-caching")
    return "\n".join(lines) + "\n"
