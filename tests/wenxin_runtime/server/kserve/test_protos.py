"""Our messages against Triton's own, as tritonclient brings them."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor
from tritonclient.grpc import model_config_pb2, service_pb2

from wenxin_runtime.server.kserve.grpc_calls import SERVICE
from wenxin_runtime.server.kserve.protos import __main__ as generator
from wenxin_runtime.server.kserve.protos import health_pb2, open_inference_pb2

THEIRS = {**service_pb2.DESCRIPTOR.message_types_by_name, **model_config_pb2.DESCRIPTOR.message_types_by_name}
OURS = open_inference_pb2.ModelInferRequest.DESCRIPTOR.file


def fields(message: Descriptor) -> Iterator[tuple[Any, ...]]:
    for field in message.fields:
        kind = field.message_type.full_name if field.message_type else None
        yield field.name, field.number, field.type, field.is_repeated, kind, field.containing_oneof is not None
    for nested in message.nested_types:
        yield from ((nested.name, *each) for each in fields(nested))


@pytest.mark.parametrize("name", OURS.message_types_by_name)
def test_every_field_has_tritons_name_number_and_type(name: str) -> None:
    ours, theirs = set(fields(OURS.message_types_by_name[name])), set(fields(THEIRS[name]))
    assert OURS.message_types_by_name[name].full_name == THEIRS[name].full_name
    assert ours <= theirs


def test_the_datatypes_have_tritons_numbers() -> None:
    theirs = model_config_pb2.DESCRIPTOR.enum_types_by_name["DataType"].values_by_name
    ours = OURS.enum_types_by_name["DataType"].values_by_name
    assert {name: value.number for name, value in ours.items()} == {name: each.number for name, each in theirs.items()}


def test_every_method_is_one_of_tritons() -> None:
    def methods(file: Any) -> set[tuple[str, str, str]]:
        service = file.services_by_name["GRPCInferenceService"]
        assert service.full_name == SERVICE
        return {(method.name, method.input_type.full_name, method.output_type.full_name) for method in service.methods}

    assert methods(OURS) <= methods(service_pb2.DESCRIPTOR)


def test_a_message_means_the_same_to_both() -> None:
    ours = open_inference_pb2.ModelInferRequest(model_name="m", id="7", raw_input_contents=[b"abc"])
    ours.parameters["seed"].int64_param = -3
    ours.inputs.add(name="text_input", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"hi")
    theirs = service_pb2.ModelInferRequest.FromString(ours.SerializeToString())
    assert theirs.inputs[0].contents.bytes_contents == [b"hi"]
    assert theirs.parameters["seed"].int64_param == -3
    again = open_inference_pb2.ModelInferRequest.FromString(theirs.SerializeToString(deterministic=True))
    assert again == ours


def test_the_health_service_is_grpcs_own() -> None:
    check = health_pb2.HealthCheckRequest.DESCRIPTOR.file.services_by_name["Health"].methods_by_name["Check"]
    assert check.full_name == "grpc.health.v1.Health.Check"
    # As grpc/health/v1/health.proto numbers them.
    statuses = health_pb2.HealthCheckResponse.ServingStatus.items()
    assert dict(statuses) == {"UNKNOWN": 0, "SERVING": 1, "NOT_SERVING": 2, "SERVICE_UNKNOWN": 3}


def test_the_generated_code_is_up_to_date() -> None:
    for path, text in generator.generated().items():
        assert path.read_text() == text, f"{path.name} is out of date: run `make protos`"


def test_the_check_of_generated_code_tells_what_is_stale(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.proto").write_text('syntax = "proto3"; message A { string b = 1; }')
    monkeypatch.setattr(generator, "_FOLDER", tmp_path)
    monkeypatch.setattr(sys, "argv", ["protos", "--check"])
    assert generator.main() == 1
    assert "a_pb2.py is out of date" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["protos"])
    assert generator.main() == 0
    monkeypatch.setattr(sys, "argv", ["protos", "--check"])
    assert generator.main() == 0


def test_a_server_without_grpc_imports_no_grpc() -> None:
    code = (
        "import sys, wenxin_runtime.server.serve; sys.exit('grpc' in sys.modules or 'google.protobuf' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
