import hashlib
import os

import pytest

from wenxin_runtime.weights import digest
from wenxin_runtime.weights.digest import digest_tree


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("a")
    return tmp_path


def test_the_digest_is_the_documented_one(tree):
    lines = "".join(
        f"{name}\0{1}\0{hashlib.sha256(content).hexdigest()}\n"
        for name, content in (("b.txt", b"b"), ("sub/a.txt", b"a"))
    )
    assert digest_tree(tree) == "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def test_hidden_files_do_not_count(tree):
    before = digest_tree(tree)
    (tree / ".cache").mkdir()
    (tree / ".cache" / "x").write_text("x")
    (tree / ".gitattributes").write_text("x")
    assert digest_tree(tree) == before


def test_a_name_a_size_and_a_byte_each_change_it(tree):
    seen = {digest_tree(tree)}
    (tree / "b.txt").write_text("c")
    seen.add(digest_tree(tree))
    (tree / "b.txt").write_text("cc")
    seen.add(digest_tree(tree))
    (tree / "b.txt").rename(tree / "d.txt")
    seen.add(digest_tree(tree))
    assert len(seen) == 4


def test_a_large_file_is_sampled_at_its_head_its_end_and_between(tree, monkeypatch):
    monkeypatch.setattr(digest, "WHOLE", 1000)
    monkeypatch.setattr(digest, "HEAD", 100)
    monkeypatch.setattr(digest, "SAMPLE", 10)
    monkeypatch.setattr(digest, "SAMPLES", 5)
    large = tree / "large"
    content = bytearray(os.urandom(2010))
    large.write_bytes(content)
    before = digest_tree(tree)
    for position in (0, 99, 505, 1009, 2009):
        content[position] ^= 1
        large.write_bytes(content)
        assert digest_tree(tree) != before
        content[position] ^= 1
    content[300] ^= 1  # between two samples
    large.write_bytes(content)
    assert digest_tree(tree) == before
