"""What is on disk: resumed where it is true, ignored where it is not, and published whole or not at all."""

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wenxin_runtime.download.digests import digest_of
from wenxin_runtime.download.folder import NOTES, Folder, PartialFile, Plan
from wenxin_runtime.download.listing import Digest, RemoteFile, fingerprint
from wenxin_runtime.errors import ConfigError, NotEnoughSpace

SOURCE = "hf://baidu/tiny"


def remote(name: str = "config.json", size: int = 10, **facts: object) -> RemoteFile:
    return RemoteFile(name=name, size=size, **facts)  # type: ignore[arg-type]


def plan(*files: RemoteFile, revision: str = "one") -> Plan:
    return Plan(source=SOURCE, requested=None, revision=revision, files=files)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "tiny")


def with_five_bytes(folder: Folder, file: RemoteFile) -> None:
    stored = folder.open(file)
    stored.write(memoryview(b"hello"), 0)
    stored.note((0, 5))
    stored.close()


def spans(folder: Folder, file: RemoteFile) -> list[tuple[int, int]]:
    stored = folder.open(file)
    stored.close()
    return stored.spans


def test_what_was_noted_is_there_the_next_time(folder: Folder) -> None:
    file = remote(digest=Digest("sha256", "00"))
    folder.adopt(plan(file))
    with_five_bytes(folder, file)
    assert spans(folder, file) == [(0, 5)]
    stored = folder.open(file)
    stored.note_verified()
    stored.close()
    assert folder.open(file).verified
    assert folder.begun(SOURCE, None) == plan(file)
    assert folder.begun(SOURCE, "v2") is None


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        (remote(digest=Digest("sha256", "00")), remote(digest=Digest("sha256", "00")), True),
        (remote(digest=Digest("sha256", "00")), remote(digest=Digest("sha256", "11")), False),
        (remote(validator='"a"'), remote(validator='"a"'), True),
        (remote(validator='"a"'), remote(validator='"b"'), False),
        (remote(), remote(), False),
        (remote(), remote(size=11), False),
    ],
)
def test_a_file_is_kept_over_revisions_only_if_it_is_surely_the_same(
    folder: Folder, before: RemoteFile, after: RemoteFile, *, kept: bool
) -> None:
    folder.adopt(plan(before, revision="one"))
    with_five_bytes(folder, before)
    folder.adopt(plan(after, revision="two"))
    assert spans(folder, after) == ([(0, 5)] if kept else [])


def test_a_file_is_verified_again_where_it_must_be_something_else(folder: Folder) -> None:
    folder.adopt(plan(remote(digest=Digest("git-sha1", "00"))))
    with_five_bytes(folder, remote())
    stored = folder.open(remote())
    stored.note_verified()
    stored.close()
    folder.adopt(plan(remote(digest=Digest("sha256", "11"))))
    again = folder.open(remote())
    again.close()
    assert again.spans == [(0, 5)]
    assert not again.verified


def test_an_etag_says_nothing_of_another_place(folder: Folder) -> None:
    folder.adopt(plan(remote(validator='"a"')))
    with_five_bytes(folder, remote())
    folder.adopt(msgspec.structs.replace(plan(remote(validator='"a"')), source="hf://baidu/other"))
    assert spans(folder, remote()) == []


def test_a_file_of_the_same_commit_is_kept_though_nothing_is_known_of_it(folder: Folder) -> None:
    folder.adopt(plan(remote()))
    with_five_bytes(folder, remote())
    folder.adopt(plan(remote()))
    assert spans(folder, remote()) == [(0, 5)]


def test_a_file_that_nothing_identifies_is_fetched_anew(folder: Folder) -> None:
    folder.adopt(plan(remote(), revision=fingerprint([remote()])))
    with_five_bytes(folder, remote())
    folder.adopt(plan(remote(), revision=fingerprint([remote()])))
    assert spans(folder, remote()) == []


def test_blocks_that_are_written_and_not_noted_need_no_space_again(folder: Folder) -> None:
    file = remote(size=2**20)
    folder.adopt(plan(file))
    stored = folder.open(file)
    assert stored.unallocated == 2**20
    stored.write(memoryview(bytes(range(256)) * 2**12), 0)
    stored.close()
    again = folder.open(file)
    again.close()
    assert (again.spans, again.unallocated) == ([], 0)


def test_what_does_not_belong_to_the_plan_is_removed(folder: Folder) -> None:
    folder.adopt(plan(remote(), remote("old.safetensors")))
    with_five_bytes(folder, remote("old.safetensors"))
    (folder.partial / "strange").mkdir()
    (folder.partial / "link").symlink_to("/etc")
    folder.adopt(plan(remote()))
    assert sorted(path.name for path in folder.partial.rglob("*")) == [NOTES, "plan.json"]


def test_notes_of_a_file_that_is_gone_or_another_count_for_nothing(folder: Folder) -> None:
    folder.adopt(plan(remote()))
    with_five_bytes(folder, remote())
    (folder.partial / "config.json").unlink()
    assert spans(folder, remote()) == []
    with_five_bytes(folder, remote())
    os.truncate(folder.partial / "config.json", 3)
    assert spans(folder, remote()) == []


@given(st.integers(0, 40), st.binary(max_size=8))
def test_a_torn_note_never_names_bytes_that_are_not_there(
    tmp_path_factory: pytest.TempPathFactory, keep: int, garbage: bytes
) -> None:
    path = tmp_path_factory.mktemp("torn")
    stored = PartialFile(path / "file", path / "notes", 3000)
    for span in ((0, 100), (100, 2000), (2000, 3000)):
        stored.note(span)
    stored.close()
    notes = path / "notes"
    whole = notes.read_bytes()
    notes.write_bytes(whole[: max(0, len(whole) - keep)] + garbage.translate(None, b"0123456789"))
    again = PartialFile(path / "file", notes, 3000)
    again.note((5, 6))
    again.close()
    last = PartialFile(path / "file", notes, 3000)
    last.close()
    assert (5, 6) in last.spans
    truth = {(0, 100), (100, 2000), (2000, 3000), (5, 6)}
    assert all(any(start >= a and end <= b for a, b in truth) for start, end in last.spans)


def test_a_link_in_the_place_of_a_file_is_not_followed(folder: Folder, tmp_path: Path) -> None:
    folder.adopt(plan(remote()))
    (folder.partial / "config.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="config"):
        folder.open(remote())
    assert not (tmp_path / "elsewhere").exists()


def published(folder: Folder) -> None:
    folder.adopt(plan(remote()))
    with_five_bytes(folder, remote())
    folder.publish()


def test_a_published_directory_is_whole_and_knows_what_it_is(folder: Folder) -> None:
    folder.directory.mkdir()  # an empty one, as a user or an earlier Job may have made it
    assert folder.complete(SOURCE, None) is None
    published(folder)
    assert folder.complete(SOURCE, None) == plan(remote())
    assert sorted(path.name for path in folder.directory.rglob("*")) == [NOTES, "config.json", "plan.json"]
    assert not folder.partial.exists()


@pytest.mark.parametrize(("source", "requested"), [(SOURCE, "v2"), ("hf://baidu/other", None)])
def test_a_directory_of_something_else_is_left_alone(folder: Folder, source: str, requested: str | None) -> None:
    published(folder)
    with pytest.raises(ConfigError, match="holds hf://baidu/tiny at one"):
        folder.complete(source, requested)


def test_a_directory_made_by_others_or_damaged_is_left_alone(folder: Folder) -> None:
    published(folder)
    os.truncate(folder.directory / "config.json", 3)
    with pytest.raises(ConfigError, match="damaged"):
        folder.complete(SOURCE, None)
    (folder.directory / NOTES / "plan.json").write_bytes(b"{}")
    with pytest.raises(ConfigError, match="not made by"):
        folder.complete(SOURCE, None)


def test_a_directory_that_came_up_in_the_meantime_is_not_replaced(folder: Folder) -> None:
    folder.adopt(plan(remote()))
    folder.directory.mkdir()
    (folder.directory / "file").touch()
    with pytest.raises(OSError, match="not empty"):
        folder.publish()


def test_a_broken_plan_is_none(folder: Folder) -> None:
    folder.adopt(plan(remote()))
    (folder.partial / NOTES / "plan.json").write_bytes(b"{")
    assert folder.begun(SOURCE, None) is None


def test_space_is_compared_with_what_is_missing(folder: Folder) -> None:
    folder.adopt(plan(remote()))
    folder.refuse_too_little_space(0, 2**60)
    with pytest.raises(NotEnoughSpace, match=r"1152921504\.6 GB more of 2305843009\.2 GB"):
        folder.refuse_too_little_space(2**60, 2**61)


@dataclass
class _Known:
    algorithm: str
    hexadecimal: str


@pytest.mark.parametrize(
    "known",
    [
        _Known("sha256", "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"),
        _Known("sha1", "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d"),
        _Known("git-sha1", "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"),
        _Known("crc32", "3610a686"),
    ],
)
async def test_bytes_hash_to_what_the_algorithms_say(tmp_path: Path, known: _Known) -> None:
    (tmp_path / "hello").write_bytes(b"hello")
    assert await digest_of(tmp_path / "hello", known.algorithm) == known.hexadecimal


def test_a_plan_reads_back_as_it_was_written() -> None:
    told = plan(remote(digest=Digest("sha256", "00"), validator='"a"'))
    assert msgspec.json.decode(msgspec.json.encode(told), type=Plan) == told
