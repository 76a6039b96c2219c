import hashlib
import io
import json
import os
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO

import pytest

from e2e.harness import oci
from e2e.harness.errors import BuildError
from e2e.harness.oci import Image, Layer, Process

REFERENCE = "localhost/wenxin/test:dev"


def tree_layer(root: Path) -> Layer:
    return Layer.of(lambda out: oci.tar_tree(out, root, prefix=PurePosixPath("opt/app")))


def files_layer(text: bytes = b"hello") -> Layer:
    return Layer.of(lambda out: oci.tar_files(out, {"usr/bin/run": (text, 0o755)}))


def archive(image: Image, present: set[str] | None = None) -> dict[str, bytes]:
    out = io.BytesIO()
    oci.write_archive(out, image, present=present or set())
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        return {info.name: read(tar, info) for info in tar}


def read(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(info)
    assert file
    return file.read()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text("x = 1\n")
    (tmp_path / "run").write_text("#!/bin/sh\n")
    (tmp_path / "run").chmod(0o755)
    (tmp_path / "link").symlink_to("package/module.py")
    return tmp_path


def test_every_blob_is_named_by_its_digest_and_every_reference_leads_to_one() -> None:
    blobs = archive(Image(REFERENCE, (files_layer(b"low"), files_layer(b"high")), Process(Entrypoint=("run",))))
    for name, data in blobs.items():
        if name.startswith("blobs/"):
            assert name == f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"
    index = json.loads(blobs["index.json"])
    manifest = json.loads(blobs[path(index["manifests"][0]["digest"])])
    config = json.loads(blobs[path(manifest["config"]["digest"])])
    assert [each["digest"] for each in manifest["layers"]] == config["rootfs"]["diff_ids"]
    assert all(len(blobs[path(each["digest"])]) == each["size"] for each in manifest["layers"])
    assert index["manifests"][0]["annotations"]["io.containerd.image.name"] == REFERENCE


def test_the_configuration_says_what_runs_and_as_whom() -> None:
    image = Image(REFERENCE, (), Process(Entrypoint=("wenxin-runtime",), Env=("A=1",)))
    config = json.loads(image.config)["config"]
    assert config == {"Entrypoint": ["wenxin-runtime"], "Env": ["A=1"], "User": "65532:65532", "WorkingDir": "/"}


def test_equal_files_make_equal_layers_whatever_their_age_and_owner(root: Path) -> None:
    before = tree_layer(root)
    for path in root.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    assert tree_layer(root) == before


def test_a_changed_file_makes_another_layer(root: Path) -> None:
    before = tree_layer(root)
    (root / "package" / "module.py").write_text("x = 2\n")
    assert tree_layer(root).digest != before.digest


def test_a_tree_keeps_modes_and_links(root: Path) -> None:
    out = io.BytesIO()
    tree_layer(root).write(out)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        found = {info.name: info for info in tar}
    assert sorted(found) == [
        "opt",
        "opt/app",
        "opt/app/link",
        "opt/app/package",
        "opt/app/package/module.py",
        "opt/app/run",
    ]  # fmt: skip - two lines say it
    assert found["opt/app/run"].mode == 0o755
    assert found["opt/app/package/module.py"].mode == 0o644
    assert found["opt/app/link"].linkname == "package/module.py"
    assert {info.uid for info in found.values()} == {0}


def test_layers_that_the_receiver_has_are_left_out_but_stay_listed() -> None:
    low, high = files_layer(b"low"), files_layer(b"high")
    blobs = archive(Image(REFERENCE, (low, high), Process()), present={low.digest})
    assert path(low.digest) not in blobs
    assert path(high.digest) in blobs
    index = json.loads(blobs["index.json"])
    manifest = json.loads(blobs[path(index["manifests"][0]["digest"])])
    assert [each["digest"] for each in manifest["layers"]] == [low.digest, high.digest]


def test_a_layer_that_changes_while_it_is_written_is_refused() -> None:
    texts = iter([b"measured", b"written."])

    def write(out: IO[bytes]) -> None:
        out.write(next(texts))

    image = Image(REFERENCE, (Layer.of(write),), Process())
    with pytest.raises(BuildError, match="changed while it was written"):
        oci.write_archive(io.BytesIO(), image)


def path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"
