"""Writes OCI image archives: reproducible, uncompressed (they never leave the machine), streamed, without Docker."""

import hashlib
import io
import json
import os
import platform
import tarfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from e2e.harness.errors import BuildError

LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
# Every file has this age, so equal content gives an equal digest. 1980 because zip files know no earlier year.
MTIME = 315532800
BLOCK = 1 << 20
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Layer:
    """A layer by its digest and size in bytes; `write` streams the tar again whenever it is wanted."""

    digest: str
    size: int
    write: Callable[[IO[bytes]], None] = field(compare=False, repr=False)

    @classmethod
    def of(cls, write: Callable[[IO[bytes]], None]) -> "Layer":
        """Measure a layer by writing it to nowhere."""
        meter = Meter()
        write(cast("IO[bytes]", meter))
        return cls(meter.digest, meter.size, write)


@dataclass(frozen=True)
class Process:
    """What the image runs, in the words of the OCI image specification."""

    Entrypoint: tuple[str, ...] = ()
    Cmd: tuple[str, ...] = ()
    Env: tuple[str, ...] = ("PATH=/usr/local/bin:/usr/bin:/bin",)
    User: str = "65532:65532"
    WorkingDir: str = "/"


@dataclass(frozen=True)
class Image:
    """A reference such as localhost/wenxin/runtime:dev, its layers from the lowest up, and its process."""

    reference: str
    layers: tuple[Layer, ...]
    process: Process

    @property
    def config(self) -> bytes:
        """The image's configuration."""
        diffs = [layer.digest for layer in self.layers]
        architecture = ARCHITECTURES.get(platform.machine(), platform.machine())
        process = {name: value for name, value in asdict(self.process).items() if value}
        return _json(
            {
                "architecture": architecture,
                "os": "linux",
                "config": process,
                "rootfs": {"type": "layers", "diff_ids": diffs},
            }
        )

    @property
    def manifest(self) -> bytes:
        """The list of blobs; its digest names the image's content."""
        layers = [{"mediaType": LAYER, "digest": each.digest, "size": each.size} for each in self.layers]
        config = _descriptor(CONFIG, self.config)
        return _json({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers})

    @property
    def digest(self) -> str:
        """Digest of the manifest."""
        return _digest(self.manifest)


def write_archive(out: IO[bytes], image: Image, *, present: Collection[str] = ()) -> None:
    """Stream the image as an OCI archive.

    Args:
        out: any binary sink, such as a pipe to an importer.
        image: what to write.
        present: digests that the receiver has already; their blobs are left out.
    """
    name = {
        "io.containerd.image.name": image.reference,
        "org.opencontainers.image.ref.name": image.reference.rpartition(":")[2],
    }
    entry = _descriptor(MANIFEST, image.manifest) | {"annotations": name}
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}
    for blob in (image.manifest, image.config):
        _entry(out, _blob(_digest(blob)), blob)
    for layer in dict.fromkeys(image.layers):
        if layer.digest not in present:
            _stream(out, layer)
    _entry(out, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
    _entry(out, "index.json", _json(index))
    out.write(bytes(2 * tarfile.BLOCKSIZE))


def tar_tree(out: IO[bytes], root: Path, *, prefix: PurePosixPath) -> None:
    """Write a folder as a layer: sorted, owned by root, of one age.

    Args:
        out: any binary sink.
        root: the folder on this machine.
        prefix: the folder in the image, without the leading slash.
    """
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, bufsize=BLOCK) as archive:
        for parent in reversed([prefix, *prefix.parents][:-1]):
            archive.addfile(_folder(str(parent)))
        for path in _walk(root):
            _add_path(archive, path, str(prefix / path.relative_to(root)))


def tar_files(out: IO[bytes], files: Mapping[str, tuple[bytes, int]]) -> None:
    """Write a layer of a few files: path in the image -> content and mode. Folders are made."""
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, bufsize=BLOCK) as archive:
        made: set[PurePosixPath] = {PurePosixPath()}
        for name, (data, mode) in sorted(files.items()):
            for parent in reversed(PurePosixPath(name).parents):
                if parent not in made:
                    archive.addfile(_folder(str(parent)))
                    made.add(parent)
            archive.addfile(_file(name, len(data), mode), io.BytesIO(data))


class Meter(io.RawIOBase):
    """A sink that counts and hashes what it passes on."""

    def __init__(self, out: IO[bytes] | None = None) -> None:
        super().__init__()
        self._hash = hashlib.sha256()
        self._out = out
        self.size = 0

    def writable(self) -> bool:
        """It takes anything."""
        return True

    def write(self, data: Any) -> int:
        """Count, hash and pass on one piece."""
        self._hash.update(data)
        self.size += len(data)
        if self._out:
            self._out.write(data)
        return len(data)

    @property
    def digest(self) -> str:
        """Digest of all that was written."""
        return f"sha256:{self._hash.hexdigest()}"


def _stream(out: IO[bytes], layer: Layer) -> None:
    out.write(_file(_blob(layer.digest), layer.size).tobuf(tarfile.PAX_FORMAT))
    meter = Meter(out)
    layer.write(cast("IO[bytes]", meter))
    if meter.digest != layer.digest:
        raise BuildError(f"Layer {layer.digest} changed while it was written; build the image again.")
    out.write(bytes(-layer.size % tarfile.BLOCKSIZE))


def _entry(out: IO[bytes], name: str, data: bytes) -> None:
    out.write(_file(name, len(data)).tobuf(tarfile.PAX_FORMAT))
    out.write(data + bytes(-len(data) % tarfile.BLOCKSIZE))


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)


def _add_path(archive: tarfile.TarFile, path: Path, name: str) -> None:
    if path.is_symlink():
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.mode, info.mtime = tarfile.SYMTYPE, os.readlink(path), 0o777, MTIME  # noqa: PTH115 - the text, not a Path
        archive.addfile(info)
    elif path.is_dir():
        archive.addfile(_folder(name))
    else:
        status = path.stat()
        with path.open("rb") as file:
            archive.addfile(_file(name, status.st_size, 0o755 if status.st_mode & 0o100 else 0o644), file)


def _file(name: str, size: int, mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, mode, MTIME
    return info


def _folder(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, MTIME
    return info


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _descriptor(media: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media, "digest": _digest(data), "size": len(data)}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
