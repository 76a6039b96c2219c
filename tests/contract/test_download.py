"""The operator renders the download's command line and reads its words: both must mean to it what they mean to us."""

import argparse
from pathlib import Path
from typing import Any

import msgspec
import pytest

from wenxin_operator.api.model import ModelSpec
from wenxin_operator.api.parsing import parse
from wenxin_operator.model_status import STEPS, read_progress
from wenxin_operator.names import WENXIN_MODEL, Key
from wenxin_operator.plan import download
from wenxin_operator.plan.flags import PORT
from wenxin_operator.plan.manifest import Owner
from wenxin_runtime import download as runtime_download
from wenxin_runtime import errors
from wenxin_runtime.download.digests import read_sums
from wenxin_runtime.download.options import DownloadOptions, add_flags, from_args
from wenxin_runtime.download.progress import Load
from wenxin_runtime.download.sources import source_of

OWNER = Owner(Key(WENXIN_MODEL, "team", "ernie"), "uid")
SIZE = {"storage": {"size": "5Gi"}}


class Settings:
    runtime_image, image_pull_policy, lease_namespace, image_pull_secrets = "image", "Always", "system", ()


def made(**fields: Any) -> dict[str, Any]:
    spec = parse(ModelSpec, fields)
    assert isinstance(spec, ModelSpec), spec
    job = download.job(OWNER, spec, "hash", 1, Settings())  # type: ignore[arg-type]
    pod: dict[str, Any] = job["spec"]["template"]["spec"]
    return pod


def parsed(**fields: Any) -> DownloadOptions:
    command, *arguments = made(**fields)["containers"][0]["args"]
    assert command == "download"
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_flags(parser)
    return from_args(parser.parse_args(arguments))


@pytest.mark.parametrize(
    ("fields", "source"),
    [
        ({"preset": "ernie-4.5-0.3b"}, "hf://baidu/ERNIE-4.5-0.3B-PT"),
        ({"preset": "ernie-4.5-0.3b", "hub": "modelscope"}, "modelscope://PaddlePaddle/ERNIE-4.5-0.3B-PT"),
        ({"source": "hf://org/name", **SIZE}, "hf://org/name"),
        (
            {"source": "https://files.example.com:8443/models/ernie/", **SIZE},
            "https://files.example.com:8443/models/ernie",
        ),
        ({"source": "http://files/ernie", **SIZE}, "http://files/ernie"),
        ({"source": "s3://bucket/models/ernie", **SIZE}, "s3://bucket/models/ernie"),
    ],
)
def test_every_source_of_the_spec_is_one_of_the_runtime(fields: dict[str, Any], source: str) -> None:
    options = parsed(**fields)
    assert options.source == source
    assert source_of(options, {})
    assert (options.host, options.port) == ("0.0.0.0", PORT)
    assert options.directory.parent == Path("/models/ernie-weights")


@pytest.mark.parametrize(
    ("fields", "option", "value"),
    [
        ({"preset": "ernie-4.5-0.3b", "revision": "refs/pr/1"}, "revision", "refs/pr/1"),
        ({"preset": "ernie-4.5-0.3b", "mirror": "http://hub.svc:8080/hf"}, "mirror", "http://hub.svc:8080/hf"),
        ({"source": "s3://bucket/x", "s3Addressing": "virtual", **SIZE}, "s3_addressing", "virtual"),
    ],
)
def test_a_setting_of_the_spec_arrives_in_the_runtime(fields: dict[str, Any], option: str, value: str) -> None:
    assert getattr(parsed(**fields), option) == value


def test_checksums_are_written_as_the_runtime_reads_them(tmp_path: Path) -> None:
    sums = {"config.json": "a" * 64, "sub/model.safetensors": "b" * 64}
    spec = ModelSpec(preset="ernie-4.5-0.3b", checksums=sums)
    config_map = download.checksums(OWNER, spec)
    assert config_map
    (name,) = config_map["data"]
    assert parsed(preset="ernie-4.5-0.3b", checksums=sums).checksums == f"/etc/wenxin/checksums/{name}"
    file = tmp_path / name
    file.write_text(config_map["data"][name])
    assert {path: digest.hexadecimal for path, digest in read_sums(str(file)).items()} == sums


def test_every_credential_is_a_variable_that_the_command_knows() -> None:
    assert [name for name in download.CREDENTIALS if name not in str(runtime_download.__doc__)] == []
    spec = {"preset": "ernie-4.5-0.3b", "proxy": "http://p", "noProxy": ".svc", "caConfigMapRef": {"name": "ca"}}
    names = {one["name"] for one in made(**spec)["containers"][0]["env"]} - {"HOME"}
    assert names == {"HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE"}
    assert [name for name in names if name not in str(runtime_download.__doc__)] == []


def test_what_a_download_says_at_load_is_read() -> None:
    said = Load("downloading", 3_000_000_000, 4_000_000_000, 1, 7, 12_500_000.5)
    found = read_progress(msgspec.json.decode(msgspec.json.encode(said)))
    assert found
    assert (found.done_bytes, found.total_bytes, found.files, found.total_files) == (3_000_000_000, 4_000_000_000, 1, 7)
    assert (found.bytes_per_second, found.seconds_left) == (12_500_000, 80)


def test_a_step_is_known_for_each_way_that_a_download_can_fail_and_does_not_mend_itself() -> None:
    reasons = {kind.reason for kind in errors.DownloadError.__subclasses__()}
    assert STEPS.keys() == reasons - {"DownloadInterrupted", "DownloadBusy"}
