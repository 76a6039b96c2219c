"""The three layers of our images: Debian, the locked Python dependencies, the project.

Only the last changes from build to build; the others are made once and kept in the cache, named by what determines
them.
"""

import hashlib
import json
import os
import platform
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from e2e.harness import hollow, oci, paths
from e2e.harness.errors import BuildError
from e2e.harness.lock import exclusive
from e2e.harness.oci import Layer
from e2e.harness.progress import run_logged, step

DEBIAN = "bookworm"
DOCKER_IMAGE = "python:3.11-slim-bookworm"
REDIS_DOCKER_IMAGE = "redis:8-alpine"
PYTHON = (3, 11)  # Debian bookworm's
PACKAGES = ("python3-minimal", "libpython3.11-stdlib", "libstdc++6", "ca-certificates")
REDIS_PACKAGES = ("redis-server",)
UNWANTED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
USER = 65532
UNUSED_SECONDS = 7 * 24 * 3600
SITE = PurePosixPath("opt/wenxin/site")
APPLICATION = PurePosixPath("opt/wenxin/app")
# Work on a CPU opens none of these.
NOT_FOR_CPU = (
    "triton",
    "torch/include",
    "torch/bin/protoc*",
    "nvidia/*/include",
    "nvidia/cu*/nvvm",
    "nvidia/cu*/bin",
    "nvidia/*/lib/*.a",
    "nvidia/*/lib/*.bc",
)
# torch is linked with all of NVIDIA's libraries, and calls these also where there is no GPU; the rest is hollowed out.
CALLED_ON_CPU = ("libcudart.", "libcupti.", "libcudnn.so", "libcufile.")


def debian() -> Layer:
    """Debian with a minimal Python: bootstrapped as root, else taken out of an image that Docker pulls."""
    return _system("debian", PACKAGES, DOCKER_IMAGE)


def redis() -> Layer:
    """Debian with Redis, made in the same way."""
    return _system("redis", REDIS_PACKAGES, REDIS_DOCKER_IMAGE)


def _system(name: str, packages: Sequence[str], docker_image: str) -> Layer:
    if os.geteuid() == 0 and shutil.which("mmdebstrap"):
        command = _bootstrap_command(packages)
        folder = _cached(name, command, lambda new: _bootstrap(command, new))
    else:
        folder = _cached(name, [docker_image], lambda new: _export(docker_image, new))
    return _measured(folder, lambda out: _copy(folder / "layer.tar", out))


def dependencies(extra: str) -> Layer:
    """What the lock of one extra pins, without what only a GPU would use."""
    lock = paths.REPOSITORY / "locks" / f"{extra}.txt"
    command = ["pip", "install", "--require-hashes", "--only-binary=:all:"]
    command += [f"--python-version={PYTHON[0]}.{PYTHON[1]}", f"--python-platform={platform.machine()}-manylinux_2_36"]
    if sys.version_info[:2] == PYTHON:
        command.append("--compile-bytecode")  # an image's files are read-only, so Python could not keep its own
    key = [*command, *NOT_FOR_CPU, *CALLED_ON_CPU, Path(hollow.__file__).read_text(), lock.read_text()]
    folder = _cached(f"site-{extra}", key, lambda new: _install(command, lock, new))
    return _measured(folder, lambda out: oci.tar_tree(out, folder / "site", prefix=SITE))


def project(source: Path, program: str) -> Layer:
    """One of our packages, its metadata, and its console script."""
    script = f"#!/usr/bin/env python3\nfrom {source.name}.__main__ import main\n\nraise SystemExit(main())\n"
    files = {f"usr/local/bin/{program}": (script.encode(), 0o755)}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        shutil.copytree(source, root / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        _write_metadata(root)
        _compile(root)
        _add_kernels(root / source.name / "kernels" / "cpu")
        for path in sorted(root.rglob("*")):
            if path.is_file():
                files[str(APPLICATION / path.relative_to(root))] = (path.read_bytes(), 0o644)
    return Layer.of(lambda out: oci.tar_files(out, files))


def _write_metadata(root: Path) -> None:
    """So that importlib.metadata knows the version."""
    project = tomllib.loads((paths.REPOSITORY / "pyproject.toml").read_text())["project"]
    folder = root / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {project['name']}\nVersion: {project['version']}\n")


def _compile(root: Path) -> None:
    """Bytecode that never compares ages, as every file of an image has the same; only for the image's own Python.

    In a fresh process: what the bytes are depends a little on what the interpreter has compiled before.
    """
    if sys.version_info[:2] != PYTHON:
        return
    command = [sys.executable, "-I", "-m", "compileall", "-q", "--invalidation-mode=unchecked-hash"]
    command += ["-s", str(root), "-p", f"/{APPLICATION}", str(root)]
    if subprocess.run(command, check=False).returncode:
        raise BuildError("A module of the project is no Python that the image's interpreter understands (above).")


def _add_kernels(folder: Path) -> None:
    """Put the compiled kernels beside their source, as the image has no compiler; without one here it runs on torch.

    They are kept by the name that their content gives them.
    """
    if not folder.is_dir():
        return
    build = runpy.run_path(str(folder / "build.py"))
    kept = paths.cache() / "kernels" / build["library_name"]()
    if not kept.is_file():
        with step("Compiling the runtime's CPU kernels (seconds)"):
            try:
                build["build"](kept.parent)
            except build["BuildError"] as error:
                print(f"The image goes without: {error}")
                return
    (folder / "prebuilt").mkdir(exist_ok=True)
    shutil.copy(kept, folder / "prebuilt")


def _bootstrap_command(packages: Sequence[str]) -> list[str]:
    account = f"wenxin:x:{USER}:{USER}::/tmp:/usr/sbin/nologin"
    command = ["mmdebstrap", "--variant=essential", f"--include={','.join(packages)}"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in UNWANTED]
    command += ['--aptopt=APT::Install-Recommends "false"', f"--customize-hook=echo {account} >> $1/etc/passwd"]
    return [*command, f"--customize-hook=echo wenxin:x:{USER}: >> $1/etc/group", DEBIAN]


def _bootstrap(command: Sequence[str], folder: Path) -> None:
    what = f"Debian {DEBIAN} as the images' lowest layer"
    with step(f"Making {what} once for this machine (about a minute)"):
        run_logged([*command, str(folder / "layer.tar")], what=what, log=_log(folder), environment=_reproducible())


def _export(docker_image: str, folder: Path) -> None:
    what = f"{docker_image} as the images' lowest layer"
    with step(f"Taking {what} out of Docker once for this machine"):
        name = f"wenxin-e2e-base-{os.getpid()}"
        run_logged(["docker", "create", f"--name={name}", docker_image], what=what, log=_log(folder))
        try:
            run_logged(["docker", "export", f"--output={folder / 'layer.tar'}", name], what=what, log=_log(folder))
        finally:
            run_logged(["docker", "rm", name], what=what, log=_log(folder))


def _log(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.log")


def _install(command: list[str], lock: Path, folder: Path) -> None:
    what = f"the Python dependencies of {lock.stem}"
    with step(f"Installing {what} once for this machine (with torch a few minutes and 6 GB, linked to uv's cache)"):
        target = [f"--target={folder / 'site'}", f"--requirement={lock}"]
        uv = Path(sys.executable).with_name("uv")
        run_logged([uv, *command, *target], what=what, log=_log(folder), environment=_reproducible())
        _reduce_to_cpu(folder / "site")


def _reproducible() -> dict[str, str]:
    return os.environ | {"SOURCE_DATE_EPOCH": str(oci.MTIME), "PYC_INVALIDATION_MODE": "UNCHECKED_HASH"}


def _reduce_to_cpu(site: Path) -> None:
    """Take away what only a GPU would use: more than half of the bytes, and of the time that loading torch takes."""
    for pattern in NOT_FOR_CPU:
        for path in site.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for library in site.glob("nvidia/*/lib/*.so*"):
        if not library.name.startswith(CALLED_ON_CPU) and hollow.can_hollow(library):
            hollowed = hollow.hollow(library.read_bytes())
            library.unlink()  # it may be one file with uv's cache, which must not change
            library.write_bytes(hollowed)


def _cached(name: str, key: list[str], make: Callable[[Path], None]) -> Path:
    """The folder for this key, made in another place and moved, so that it is whole or absent."""
    digest = hashlib.sha256("\0".join(key).encode()).hexdigest()[:16]
    folder = paths.cache() / "layers" / f"{name}-{digest}"
    with exclusive(folder.with_suffix(".lock"), what=f"layer {name}"):
        if not folder.exists():
            scratch = folder.with_name(f"{folder.name}.new")
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            make(scratch)
            scratch.rename(folder)
            _forget_old(folder, name)
    return folder


def _forget_old(folder: Path, name: str) -> None:
    """Remove layers that this one replaced, unless another clone has used them lately."""
    for note in folder.parent.glob(f"{name}-*/layer.json"):
        if note.parent != folder and time.time() - note.stat().st_mtime > UNUSED_SECONDS:
            shutil.rmtree(note.parent)


def _measured(folder: Path, write: Callable[[IO[bytes]], None]) -> Layer:
    """The layer with its digest and size, which are computed once; hashing gigabytes takes seconds."""
    note = folder / "layer.json"
    if not note.exists():
        layer = Layer.of(write)
        note.write_text(json.dumps({"digest": layer.digest, "size": layer.size}))
    note.touch()
    return Layer(**json.loads(note.read_text()), write=write)


def _copy(path: Path, out: IO[bytes]) -> None:
    with path.open("rb") as file:
        shutil.copyfileobj(file, out, oci.BLOCK)
