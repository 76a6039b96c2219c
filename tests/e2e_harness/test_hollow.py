import os
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.harness.hollow import can_hollow, hollow

SYSTEM_LIBRARIES = ("libz.so.1", "libstdc++.so.6", "libcrypto.so.3")


def system_library(name: str) -> Path:
    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    found = [line.split()[-1] for line in listed.splitlines() if line.strip().startswith(name + " ")]
    if not found:
        pytest.skip(f"this host has no {name}")
    return Path(found[0]).resolve()


@pytest.mark.parametrize("name", SYSTEM_LIBRARIES)
def test_a_hollow_library_loads_and_keeps_every_name(name: str, tmp_path: Path) -> None:
    real = system_library(name)
    empty = tmp_path / name
    empty.write_bytes(hollow(real.read_bytes()))
    assert empty.stat().st_size < real.stat().st_size
    script = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
    subprocess.run([sys.executable, "-c", script, str(empty)], check=True)


def test_every_function_of_a_hollow_library_answers_one(tmp_path: Path) -> None:
    empty = tmp_path / "libz.so.1"
    empty.write_bytes(hollow(system_library("libz.so.1").read_bytes()))
    # In a process of its own: this one may have the real library loaded under the same name.
    script = "import ctypes, sys; z = ctypes.CDLL(sys.argv[1]); print(z.inflate(None), z.deflate(None))"
    done = subprocess.run([sys.executable, "-S", "-c", script, str(empty)], capture_output=True, text=True, check=True)
    assert done.stdout == "1 1\n"


def test_what_is_linked_with_a_library_finds_every_versioned_name_in_the_hollow_one(tmp_path: Path) -> None:
    (tmp_path / "libcrypto.so.3").write_bytes(hollow(system_library("libcrypto.so.3").read_bytes()))
    command = ["ldd", "-r", str(system_library("libssl.so.3"))]
    here = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=here)
    assert str(tmp_path / "libcrypto.so.3") in done.stdout
    assert "undefined" not in done.stdout + done.stderr
    assert "not found" not in done.stdout + done.stderr


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(100)])
def test_what_is_no_64_bit_library_is_left_as_it_is(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert not can_hollow(path)
