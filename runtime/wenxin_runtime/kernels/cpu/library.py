"""Find or build the compiled kernels, load them, and say how their functions are called."""

import ctypes
import functools
import logging
import os
import tempfile
from ctypes import POINTER, c_char_p, c_float, c_int, c_int32, c_int64, c_uint32, c_void_p
from pathlib import Path
from typing import Any

from wenxin_runtime.kernels.cpu import build

logger = logging.getLogger(__name__)

_OTHERS_MAY_WRITE = 0o022


class Weight(ctypes.Structure):
    """csrc/kernels.h's `weight`. It borrows the memory that its pointers name."""

    _fields_ = (
        ("out", c_int64),
        ("inputs", c_int64),
        ("panels", c_void_p),
        ("scales", c_void_p),
        ("bias", c_void_p),
        ("kind", c_int32),
    )


class Member(ctypes.Structure):
    """csrc/ranks.h's `member`: one rank's side of a group that shares memory."""

    _fields_ = (
        ("shared", c_void_p),
        ("slot_bytes", c_int64),
        ("timeout_ns", c_int64),
        ("rank", c_int32),
        ("size", c_int32),
        ("file", c_int32),
        ("round", c_uint32),
        ("began", c_uint32),
        ("piece", c_uint32),
    )


_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "wx_large_pages": (c_void_p, c_int64),
    "wx_threads": (c_int,),
    "wx_linear": (POINTER(Weight), c_int, c_int64, c_void_p, c_int64, c_void_p, c_int64),
    "wx_norm": (c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_float),
    "wx_rotate_and_write": (c_int, *(c_void_p,) * 4, *(c_int64,) * 4),
    "wx_attend": (c_int, c_void_p, c_int64, *(c_void_p,) * 4, *(c_int64,) * 6, c_void_p),
    "wx_silu_and_mul": (c_int, c_void_p, c_void_p, c_int64, c_int64),
    "wx_router": (
        POINTER(Weight), c_void_p, c_int64, c_float, c_int, c_int64, c_void_p, c_int64, c_void_p, c_void_p,
    ),
    "wx_experts": (
        POINTER(Weight), POINTER(Weight), c_int64, c_int, c_int64, c_void_p, c_int64, c_void_p, c_void_p, c_void_p,
    ),
}  # fmt: skip
_RESULTS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "wx_choose": (c_char_p, (c_char_p,)),
    "wx_sum": (c_int, (POINTER(Member), c_int, c_void_p, c_int64)),
    "wx_join": (c_int, (POINTER(Member), c_void_p, c_void_p, c_int64, c_int64)),
    "wx_exchange": (c_int, (POINTER(Member), c_void_p, POINTER(c_int64), c_void_p, POINTER(c_int64), c_int64)),
    "wx_spread": (c_int, (POINTER(Member), c_void_p, c_int64)),
    "wx_segment_bytes": (c_int64, (c_int64, c_int64)),
}
"""Of the functions that return something: the result's type, and the arguments'."""


@functools.cache
def load() -> ctypes.CDLL | None:
    """Give the kernels for this CPU; None, after one line in the log, where they can be neither found nor built."""
    reasons = []
    for attempt in (_prebuilt, _cached, _built, _built_for_once):
        try:
            library = attempt()
        except (build.BuildError, OSError) as error:
            reasons.append(str(error))
            continue
        if library is not None:
            return library
    logger.warning("the CPU runs plain torch kernels, several times slower: %s", "; ".join(dict.fromkeys(reasons)))
    return None


def choose_instruction_set(library: ctypes.CDLL, name: str = "") -> str | None:
    """Take an instruction set by name, or the best; give its name, or None where this CPU or the library lacks it."""
    chosen: bytes | None = library.wx_choose(name.encode())
    return chosen.decode() if chosen else None


def cache_folder() -> Path:
    """Say where libraries that were built on first use are kept."""
    told = os.environ.get("WENXIN_KERNEL_CACHE")
    if told:
        return Path(told)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - Path.expanduser may raise
    return Path(base) / "wenxin-runtime"


def _prebuilt() -> ctypes.CDLL | None:
    # Whoever may write the package's own Python needs no library to run code here.
    return _open(build.PREBUILT / build.library_name(), Path(build.__file__).stat().st_uid)


def _cached() -> ctypes.CDLL | None:
    return _open(cache_folder() / build.library_name())


def _built() -> ctypes.CDLL | None:
    return _open(build.build(cache_folder()))


def _built_for_once() -> ctypes.CDLL | None:
    """Build where nothing can be kept: the mapped library outlives its file."""
    with tempfile.TemporaryDirectory(prefix="wenxin-kernels-") as folder:
        return _open(build.build(Path(folder)))


def _open(path: Path, *more_owners: int) -> ctypes.CDLL | None:
    """Load a library that nobody but this user or root can have written; None where there is no such file.

    It is loaded through the open file that was looked at, so that it cannot be exchanged in between. The file stays
    open: the loader knows libraries by their names, so this one must not come to mean another file.

    Raises:
        OSError: it cannot be loaded.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        found = os.fstat(file)
        if found.st_uid not in {0, os.geteuid(), *more_owners} or found.st_mode & _OTHERS_MAY_WRITE:
            raise PermissionError(f"{path} is not loaded: other users may have written it")
        return _described(ctypes.CDLL(f"/proc/self/fd/{file}"))
    except OSError:
        os.close(file)
        raise


def _described(library: ctypes.CDLL) -> ctypes.CDLL:
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    for name, (result, arguments) in _RESULTS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
    choose_instruction_set(library)
    return library
