"""The identity of a model directory, in seconds also for 600 GB.

sha256 over one line "PATH NUL SIZE NUL HASH" per file, sorted by path relative to the directory; hidden files and
folders (`.cache`, `.git`) are left out. HASH is the sha256 of the content up to 64 MiB; of a larger file it is that of
its first MiB (a safetensors header lies there), its size, and 64 samples of 64 KiB spread evenly to the end. They miss
an edit of a few bytes in a large file, which is why this is an identity and no protection: a fine-tune changes every
weight, a truncated file its size.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

WHOLE = 64 * 1024 * 1024
HEAD = 1024 * 1024
SAMPLES = 64
SAMPLE = 64 * 1024


def digest_tree(directory: Path) -> str:
    """Return `sha256:` and 64 hexadecimal digits.

    Raises:
        OSError: a file cannot be read.
    """
    total = hashlib.sha256()
    for path in sorted(_files(directory), key=lambda path: path.relative_to(directory).as_posix()):
        size = path.stat().st_size
        total.update(f"{path.relative_to(directory).as_posix()}\0{size}\0{_content_hash(path, size)}\n".encode())
    return "sha256:" + total.hexdigest()


def _files(directory: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(folder) / name for name in names if not name.startswith("."))


def _content_hash(path: Path, size: int) -> str:
    with path.open("rb") as file:
        if size <= WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        content = hashlib.sha256(file.read(HEAD))
        content.update(str(size).encode())
        for index in range(SAMPLES):
            file.seek((size - SAMPLE) * index // (SAMPLES - 1))
            content.update(file.read(SAMPLE))
        return content.hexdigest()
