"""Which of a source's files make a checkpoint, and which listings are refused before anything is fetched.

Fetched are, from the top folder only: config.json, generation_config.json, *.safetensors and their index, the
tokenizer's files, the chat template, licence and notice. Never pickles (*.bin, *.pt, *.pth), never code (*.py).
"""

import re
from collections.abc import Collection, Iterable

from wenxin_runtime.download.listing import RemoteFile
from wenxin_runtime.errors import CheckpointError, InvalidListing
from wenxin_runtime.weights.safetensors import INDEX, SINGLE

MUST = ("config.json", "tokenizer.json")
SMALL = (
    *MUST,
    "generation_config.json",
    INDEX,
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
)
_WEIGHTS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors", re.ASCII)
_MOST_ENTRIES = 100_000
_MOST_FILES = 5_000
_LARGEST_SMALL = 2**30
_LARGEST = 2**43  # 8 TiB: larger than any checkpoint, smaller than what makes arithmetic or file systems stumble


def is_wanted(name: str) -> bool:
    """Say whether a file of that name belongs to a checkpoint."""
    return name in SMALL or _WEIGHTS.fullmatch(name) is not None


def refuse_unsafe(names: Collection[str], source: str) -> None:
    """Refuse a listing that no honest source gives.

    Raises:
        InvalidListing: a path leads out of its folder, a name appears twice, or there are far too many.
    """
    refuse_too_many(names, source)
    for name in names:
        if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
            raise InvalidListing(f"{source} lists a file {name!r}, which leads out of the directory: do not trust it")
    if len(set(names)) < len(names):
        raise InvalidListing(f"{source} lists a file twice: do not trust it")


def refuse_too_many(entries: Collection[object], source: str) -> None:
    """Refuse a listing that grows and grows, before memory is full of it.

    Raises:
        InvalidListing: no checkpoint has so many files.
    """
    if len(entries) > _MOST_ENTRIES:
        raise InvalidListing(f"{source} lists more than {_MOST_ENTRIES} files: this is no checkpoint; check SOURCE")


def refuse_sizes(files: Iterable[RemoteFile], source: str) -> None:
    """Refuse sizes that cannot be true.

    Raises:
        InvalidListing: names the file.
    """
    files = tuple(files)
    if len(files) > _MOST_FILES:
        raise InvalidListing(f"{source} lists {len(files)} files of a checkpoint, more than {_MOST_FILES}")
    for file in files:
        if not 0 <= file.size <= (_LARGEST if file.is_weights else _LARGEST_SMALL):
            raise InvalidListing(f"{source} says that {file.name} has {file.size} bytes: that cannot be true")


def refuse_incomplete(names: Collection[str], source: str) -> None:
    """Refuse, by its listing, what is no checkpoint that this runtime serves.

    Raises:
        CheckpointError: another format, such as Paddle's; says which repository to take instead.
        InvalidListing: no files of a checkpoint are there.
    """
    if source.lower().endswith("-paddle") or any(name.endswith(".pdparams") for name in names):
        raise CheckpointError(
            f"{source} is in the Paddle layout: use the repository of the same model whose name ends in -PT"
        )
    if not any(_WEIGHTS.fullmatch(name) for name in names):
        raise _no_weights(names, source)
    missing = [name for name in MUST if name not in names]
    if missing == ["tokenizer.json"]:
        raise CheckpointError(
            f"{source} has no tokenizer.json, as repositories in the Paddle layout: use the one whose name ends in -PT"
        )
    if missing:
        raise InvalidListing(f"{source} has no {' and no '.join(missing)}: give the folder that holds config.json")
    if SINGLE not in names and INDEX not in names:
        raise InvalidListing(f"{source} has neither {SINGLE} nor {INDEX}: its weights cannot be read")


def _no_weights(names: Collection[str], source: str) -> CheckpointError | InvalidListing:
    if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        return CheckpointError(f"{source} has pickled weights only, which are not fetched: use one with *.safetensors")
    if any(name.endswith(".gguf") for name in names):
        return CheckpointError(f"{source} has GGUF weights, which this runtime does not read: use the -PT repository")
    return InvalidListing(f"{source} has no *.safetensors: give the folder that holds config.json and the weights")
