import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wenxin_runtime.errors import ConfigError
from wenxin_runtime.kernels import choose
from wenxin_runtime.kernels.cpu import build, library
from wenxin_runtime.kernels.cpu.kernels import CpuKernels
from wenxin_runtime.kernels.reference import ReferenceKernels

CPU = torch.device("cpu")


@pytest.fixture
def compiler(compiled, tmp_path, monkeypatch):
    """Make $CC a script, by default one that has compiled everything before."""
    copy = f'while [ "$1" != -o ]; do shift; done; exec cp {Path(compiled._name).readlink()} "$2"'

    def make(text=copy):
        script = tmp_path / "cc"
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
        monkeypatch.setenv("CC", str(script))

    return make


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("WENXIN_KERNEL_CACHE", str(folder))
    monkeypatch.setattr(build, "PREBUILT", tmp_path / "prebuilt")
    library.load.cache_clear()
    yield folder
    library.load.cache_clear()


def works(found):
    linear, x = CpuKernels(found).linear(torch.eye(20)), torch.randn(3, 20)
    return torch.equal(linear(x), x)


def test_the_first_use_builds_and_the_second_loads(empty_cache, monkeypatch):
    assert works(library.load())
    assert [path.name for path in empty_cache.iterdir()] == [build.library_name()]
    library.load.cache_clear()
    monkeypatch.setenv("CC", "/nowhere/cc")
    assert works(library.load())


def test_a_library_beside_the_source_is_taken_before_the_cache(compiler, empty_cache, monkeypatch):
    compiler()
    assert build.main(["--output", str(build.PREBUILT)]) == 0
    monkeypatch.setenv("CC", "/nowhere/cc")
    assert works(library.load())
    assert not empty_cache.exists()


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize("command", ["/nowhere/cc", "false"])
def test_without_a_compiler_that_works_torch_computes_and_the_log_says_so_once(monkeypatch, caplog, command):
    monkeypatch.setenv("CC", command)
    assert isinstance(choose(CPU, torch.float32), ReferenceKernels)
    assert isinstance(choose(CPU, torch.float32), ReferenceKernels)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("the CPU runs plain torch kernels, several times slower: ")
    assert ("no C compiler" if "nowhere" in command else "failed") in line


def test_a_compiler_that_hangs_is_ended(compiler, empty_cache, monkeypatch):
    compiler("exec sleep 600")
    monkeypatch.setattr(build, "_COMPILER_SECONDS", 0.2)
    with pytest.raises(build.BuildError, match="timed out"):
        build.build(empty_cache)


def test_a_compiler_that_cannot_be_run_is_passed_over(tmp_path, empty_cache, monkeypatch):
    script = tmp_path / "cc"
    script.write_text("no program")
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    with pytest.raises(build.BuildError, match="failed"):
        build.build(empty_cache)


@pytest.mark.usefixtures("empty_cache")
def test_an_instruction_set_that_the_compiler_does_not_know_is_left_out(compiler):
    compiler(f'case "$*" in *-mavx512f*) exit 1;; esac; exec {shutil.which("cc")} "$@" -O0')
    found = library.load()
    assert works(found)
    assert library.choose_instruction_set(found, "avx512") is None
    assert library.choose_instruction_set(found, "unheard-of") is None
    assert library.choose_instruction_set(found, "baseline") == "baseline"


@pytest.mark.usefixtures("empty_cache")
def test_a_cache_that_cannot_be_written_costs_a_build_but_not_the_kernels(tmp_path, compiler, monkeypatch):
    compiler()
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("WENXIN_KERNEL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(build.BuildError, match="cannot be written: Not a directory"):
        build.build(library.cache_folder())
    assert works(library.load())


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_library_that_others_may_write_is_built_anew(compiler, empty_cache, mode):
    compiler()
    path = build.build(empty_cache)
    path.write_bytes(b"anybody's")
    path.chmod(mode)
    assert works(library.load())
    assert path.stat().st_mode & 0o022 == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_library_of_another_user_is_not_loaded(compiler, empty_cache):
    compiler()
    path = build.build(empty_cache)
    os.chown(path, 12345, 12345)
    with pytest.raises(PermissionError, match="other users may have written it"):
        library._open(path)


def test_a_damaged_library_is_built_anew(compiler, empty_cache):
    compiler()
    build.build(empty_cache).write_bytes(b"no library")
    assert works(library.load())


def test_several_processes_may_build_at_once(compiler, empty_cache):
    compiler()
    command = [sys.executable, build.__file__, "--output", str(empty_cache)]
    builders = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = {builder.communicate(timeout=120)[0].strip() for builder in builders}
    assert printed == {str(empty_cache / build.library_name())}
    assert [path.name for path in empty_cache.iterdir()] == [build.library_name()]
    assert isinstance(library._cached(), ctypes.CDLL)


def test_the_build_command_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CC", "/nowhere/cc")
    assert build.main(["--output", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "no kernels: no C compiler (cc, gcc, clang) is on the PATH\n"


def test_the_cache_is_where_the_user_keeps_caches(monkeypatch):
    monkeypatch.delenv("WENXIN_KERNEL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/kept")
    assert library.cache_folder() == Path("/kept/wenxin-runtime")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/of-one")
    assert library.cache_folder() == Path("/home/of-one/.cache/wenxin-runtime")


@pytest.mark.usefixtures("compiled")
def test_a_float32_or_bfloat16_cpu_gets_the_kernels_and_float16_the_reference():
    assert isinstance(choose(CPU, torch.float32), CpuKernels)
    assert isinstance(choose(CPU, torch.bfloat16, "int8"), CpuKernels)
    assert isinstance(choose(CPU, torch.float16), ReferenceKernels)


def test_a_quantization_that_nothing_here_computes_with_is_refused():
    with pytest.raises(ConfigError, match=r"--quantization int8 needs compiled kernels.*float16 on cpu"):
        choose(CPU, torch.float16, "int8")
