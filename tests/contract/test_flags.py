"""The operator writes the runtime's command line: every line must mean to the runtime what the spec means."""

import argparse
import re
from typing import Any

import pytest

from wenxin_operator.api.deployment import DeploymentSpec
from wenxin_operator.names import WENXIN_DEPLOYMENT, Key
from wenxin_operator.plan import leader_worker_set, stateful_set
from wenxin_operator.plan.flags import GRPC_PORT, PORT, render
from wenxin_operator.plan.manifest import Owner
from wenxin_operator.plan.workload import Membership
from wenxin_runtime.config import RuntimeConfig, add_flags, from_args

MODEL = {"model": {"ref": "ernie"}}
OWNER = Owner(Key(WENXIN_DEPLOYMENT, "team", "ernie"), "uid")


def parsed(spec: dict[str, Any], tmp_path: Any) -> RuntimeConfig:
    """What the runtime makes of the flags file, read as the pod's own arguments name it."""
    file = tmp_path / "flags"
    file.write_text(render(DeploymentSpec.model_validate(MODEL | spec), "ernie-21b"))
    parser = argparse.ArgumentParser(fromfile_prefix_chars="@", exit_on_error=False)
    add_flags(parser.add_subparsers().add_parser("serve", fromfile_prefix_chars="@"))
    return from_args(parser.parse_args(["serve", "/models/weights/ernie", f"@{file}"]))


def test_the_defaults_of_a_deployment_are_those_of_the_runtime(tmp_path: Any) -> None:
    config, default = parsed({}, tmp_path), RuntimeConfig(model_dir="/models/weights/ernie")
    assert config == RuntimeConfig(
        model_dir="/models/weights/ernie",
        host="0.0.0.0",
        port=PORT,
        served_model_name=("ernie-21b",),
        device="cuda",
    )
    assert (config.max_num_seqs, config.queue_size) == (default.max_num_seqs, default.queue_size)


@pytest.mark.parametrize(
    ("spec", "field", "value"),
    [
        ({"servedName": "baidu/ERNIE-4.5"}, "served_model_name", ("baidu/ERNIE-4.5",)),
        ({"dtype": "float16"}, "dtype", "float16"),
        ({"grpc": True}, "grpc_port", GRPC_PORT),
        ({"quantization": "int8"}, "quantization", "int8"),
        ({"maxModelLen": 4096}, "max_model_len", 4096),
        ({"accelerator": {"resource": "none"}}, "device", "cpu"),
        ({"engine": {"maxNumSeqs": 7}}, "max_num_seqs", 7),
        ({"engine": {"queueSize": 0}}, "queue_size", 0),
        ({"engine": {"maxBatchedTokens": 2048}}, "max_num_batched_tokens", 2048),
        ({"engine": {"prefixCaching": False}}, "enable_prefix_caching", False),
        ({"engine": {"prefixCaching": True}}, "enable_prefix_caching", True),
        ({"drain": {"delay": "1500ms"}}, "shutdown_delay", 1.5),
        ({"drain": {"timeout": "1h30m"}}, "drain_timeout", 5400),
        ({"drain": {"timeout": "24h"}}, "drain_timeout", 86400),
        ({"drain": {"delay": "0s"}}, "shutdown_delay", 0),
        ({"monitoring": {"otlpEndpoint": "http://c.obs.svc:4318"}}, "otlp_endpoint", "http://c.obs.svc:4318"),
        ({"engine": {"stallTimeout": "1h"}}, "engine_stall_timeout", 3600),
        ({"engine": {"stallTimeout": "0s"}}, "engine_stall_timeout", 0),
        ({"parallelism": {"tensor": 8}}, "tensor_parallel_size", 8),
        ({"parallelism": {"data": 4}}, "data_parallel_size", 4),
        ({"parallelism": {"tensor": 2, "expert": True}}, "enable_expert_parallel", True),
        ({"parallelism": {"tensor": 2, "expert": True, "redundantExperts": 6}}, "num_redundant_experts", 6),
        ({"parallelism": {"tensor": 4, "data": 2, "nodes": 4}}, "nnodes", 4),
    ],
)
def test_a_setting_of_the_spec_arrives_in_the_runtime(
    spec: dict[str, Any], field: str, value: Any, tmp_path: Any
) -> None:
    assert getattr(parsed(spec, tmp_path), field) == value


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "float16"])
def test_every_dtype_of_the_spec_is_one_of_the_runtime(dtype: str, tmp_path: Any) -> None:
    assert parsed({"dtype": dtype}, tmp_path).dtype == dtype


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_every_quantization_of_the_spec_is_one_of_the_runtime(quantization: str, tmp_path: Any) -> None:
    assert parsed({"quantization": quantization}, tmp_path).quantization == quantization


def test_an_image_that_lacks_a_newer_flag_is_not_given_it_unasked() -> None:
    flags = render(DeploymentSpec.model_validate(MODEL), "ernie-21b")
    newer = {"quantization", "engine-stall-timeout", "otlp-endpoint", "data-parallel-size", "num-redundant-experts"}
    assert not (newer | {"nnodes", "grpc-port"}) & set(re.findall(r"--([a-z-]+)", flags))


@pytest.mark.parametrize(
    "engine",
    [
        {"maxNumSeqs": 1, "queueSize": 0, "maxBatchedTokens": 16},
        {"maxNumSeqs": 4096, "queueSize": 100_000, "maxBatchedTokens": 1_048_576},
    ],
)
def test_the_runtime_takes_the_bounds_of_the_schema(engine: dict[str, Any], tmp_path: Any) -> None:
    assert parsed({"engine": engine, "maxModelLen": 10_000_000}, tmp_path)


def test_a_long_drain_is_seconds_to_the_last_digit(tmp_path: Any) -> None:
    assert parsed({"drain": {"timeout": "23h59m59s"}}, tmp_path).drain_timeout == 86399


@pytest.mark.parametrize("membership", [stateful_set.membership(OWNER), leader_worker_set.MEMBERSHIP])
def test_a_member_of_a_group_is_told_its_place_in_the_runtimes_words(membership: Membership) -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_flags(parser)
    values = {membership.node_rank: "3", membership.master: "ernie-0.nodes.team.svc"}
    args = [f"{flag}={values[value]}" for flag, value in (arg.split("=") for arg in membership.args)]
    config = from_args(parser.parse_args(["m", "--nnodes=4", "--data-parallel-size=4", *args]))
    assert (config.node_rank, config.master_addr) == (3, "ernie-0.nodes.team.svc")
