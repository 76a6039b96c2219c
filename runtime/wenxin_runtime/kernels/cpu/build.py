"""Compile the kernels: once for each instruction set that the compiler knows, linked into one library.

    python -m wenxin_runtime.kernels.cpu.build           # beside the source, for an image without a compiler
    python -m wenxin_runtime.kernels.cpu.build --output DIR

A library is named by the content of the source, so a stale one is never found. Imports nothing but the standard
library: an image's builder may run this file on its own.
"""

import argparse
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent / "csrc"
PREBUILT = Path(__file__).parent / "prebuilt"

_SOURCES = ("dispatch.c", "pool.c", "ranks.c")  # beside isa.c
_COMPILERS = ("cc", "gcc", "clang")
_COMPILER_SECONDS = 300
# No -ffast-math: a NaN has to come through, and sums keep their order.
_FLAGS = (
    "-std=gnu11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fPIC", "-fvisibility=hidden", "-pthread",
    "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-psabi",
)  # fmt: skip
_AVX2 = ("-mavx2", "-mfma")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq")
_INSTRUCTION_SETS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "baseline": (),
        "avx2": _AVX2,
        "avx512": _AVX512,
        "avx512bf16": (*_AVX512, "-mavx512vnni", "-mavx512bf16"),
    },
}
_ANYWHERE: dict[str, tuple[str, ...]] = {"baseline": ()}


class BuildError(Exception):
    """No library could be made; the message says why."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """One object file being compiled."""

    name: str
    path: Path
    compiler: subprocess.Popen[str]


@functools.cache
def library_name() -> str:
    """Name the library that this source, these flags and this kind of machine give."""
    digest = hashlib.sha256(repr((_FLAGS, _instruction_sets(), platform.machine())).encode())
    for path in sorted(SOURCE.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"wenxin-kernels-{digest.hexdigest()[:20]}.so"


def build(folder: Path) -> Path:
    """Compile into `folder`, which is made; several processes may do so at once.

    Raises:
        BuildError: no compiler, or none that can; `folder` cannot be written.
    """
    final = folder / library_name()
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as scratch:
            made = compile_into(Path(scratch))
            made.chmod(0o755)
            made.replace(final)
    except OSError as error:
        raise BuildError(f"{folder} cannot be written: {error.strerror or error}") from error
    return final


def compile_into(scratch: Path) -> Path:
    """Try the compilers in turn; an instruction set that one does not know is left out.

    Raises:
        BuildError: no compiler, or none that can.
    """
    failure = f"no C compiler ({', '.join(_COMPILERS)}) is on the PATH"
    for compiler in _compilers():
        objects = list(_compile(compiler, scratch))
        try:
            return _link(compiler, scratch, objects)
        except subprocess.CalledProcessError as error:
            failure = f"{compiler} failed: {_last_line(error.stderr)}"
        except (OSError, subprocess.TimeoutExpired) as error:
            failure = f"{compiler} failed: {error}"
    raise BuildError(failure)


def _instruction_sets() -> dict[str, tuple[str, ...]]:
    return _INSTRUCTION_SETS.get(platform.machine(), _ANYWHERE)


def _compilers() -> Iterator[str]:
    wanted = os.environ.get("CC")
    for name in (wanted,) if wanted else _COMPILERS:
        found = shutil.which(name)
        if found:
            yield found


def _compile(compiler: str, scratch: Path) -> Iterator[_Unit]:
    """Compile isa.c for every instruction set at the same time; yield those that worked."""
    units = []
    for name, flags in _instruction_sets().items():
        path = scratch / f"{name}.o"
        command = [compiler, *_FLAGS, *flags, f"-DISA={name}", "-c", str(SOURCE / "isa.c"), "-o", str(path)]
        try:
            started = subprocess.Popen(command, stderr=subprocess.DEVNULL, text=True)  # noqa: S603 - our own command
        except OSError:
            continue
        units.append(_Unit(name, path, started))
    for unit in units:
        try:
            if unit.compiler.wait(_COMPILER_SECONDS) == 0:
                yield unit
        except subprocess.TimeoutExpired:
            unit.compiler.kill()
            unit.compiler.wait()


def _link(compiler: str, scratch: Path, units: Sequence[_Unit]) -> Path:
    made = scratch / "kernels.so"
    known = [f"-DHAS_{unit.name.upper()}" for unit in units]
    sources = [str(SOURCE / name) for name in _SOURCES] + [str(unit.path) for unit in units]
    command = [compiler, *_FLAGS, *known, "-shared", "-Wl,-z,defs", *sources, "-o", str(made), "-lm"]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_COMPILER_SECONDS)  # noqa: S603 - our own
    return made


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"


def main(arguments: Sequence[str] | None = None) -> int:
    """Build and print the library's path."""
    parser = argparse.ArgumentParser(prog="python -m wenxin_runtime.kernels.cpu.build", description=__doc__)
    parser.add_argument("--output", type=Path, default=PREBUILT, help="folder for the library (default: %(default)s)")
    try:
        print(build(parser.parse_args(arguments).output))  # noqa: T201 - a command's output
    except BuildError as error:
        print(f"no kernels: {error}", file=sys.stderr)  # noqa: T201 - a command's output
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
