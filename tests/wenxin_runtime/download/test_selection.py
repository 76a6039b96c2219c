"""Which files are taken, and which listings are not believed."""

import pytest

from wenxin_runtime.download.listing import RemoteFile
from wenxin_runtime.download.selection import is_wanted, refuse_incomplete, refuse_sizes, refuse_unsafe
from wenxin_runtime.errors import CheckpointError, InvalidListing

WHOLE = ["config.json", "tokenizer.json", "model.safetensors"]


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "generation_config.json", "model.safetensors", "model-00001-of-00119.safetensors"),
        *("model.safetensors.index.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja", "LICENSE"),
    ],
)
def test_a_checkpoints_files_are_taken(name: str) -> None:
    assert is_wanted(name)


@pytest.mark.parametrize(
    "name",
    [
        *("pytorch_model.bin", "model.pt", "modeling_ernie4_5.py", "README.md", "original/model.safetensors", ""),
        *(
            ".safetensors",
            "-.safetensors",
            "a b.safetensors",
            "model.safetensors\n",
            "x.safetensors.exe",
            "CONFIG.JSON",
        ),
    ],
)
def test_code_pickles_and_strange_names_are_not(name: str) -> None:
    assert not is_wanted(name)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../config.json", "a/../../config.json", "..\\config.json", "config.json\0", ".."]
)
def test_a_name_that_leads_out_of_the_directory_condemns_the_listing(name: str) -> None:
    with pytest.raises(InvalidListing, match="leads out"):
        refuse_unsafe([*WHOLE, name], "hf://a/b")


def test_a_name_with_dots_leads_nowhere() -> None:
    refuse_unsafe([*WHOLE, "a..b", "...", "a/.hidden"], "hf://a/b")


def test_a_listing_that_repeats_itself_or_has_no_end_is_refused() -> None:
    with pytest.raises(InvalidListing, match="twice"):
        refuse_unsafe([*WHOLE, "config.json"], "hf://a/b")
    with pytest.raises(InvalidListing, match="more than 100000"):
        refuse_unsafe([str(number) for number in range(100_001)], "hf://a/b")


@pytest.mark.parametrize(("name", "size"), [("config.json", 2**31), ("a.safetensors", 2**44), ("a.safetensors", -1)])
def test_a_size_that_cannot_be_true_is_refused(name: str, size: int) -> None:
    with pytest.raises(InvalidListing, match="cannot be true"):
        refuse_sizes([RemoteFile(name=name, size=size)], "hf://a/b")


def test_too_many_files_are_refused() -> None:
    with pytest.raises(InvalidListing, match="5001 files"):
        refuse_sizes([RemoteFile(name=str(number), size=1) for number in range(5001)], "hf://a/b")


@pytest.mark.parametrize(
    ("names", "source", "kind", "words"),
    [
        (WHOLE, "hf://baidu/ERNIE-4.5-0.3B-Paddle", CheckpointError, "-PT"),
        (["config.json", "model_state.pdparams"], "s3://b/x", CheckpointError, "-PT"),
        (["config.json", "tokenizer.model", "model.safetensors"], "s3://b/x", CheckpointError, "no tokenizer.json"),
        (["config.json", "pytorch_model.bin"], "hf://a/b", CheckpointError, "pickled"),
        (["ernie-Q4.gguf"], "hf://a/b", CheckpointError, "GGUF"),
        (["README.md"], "hf://a/b", InvalidListing, "no \\*.safetensors"),
        (["model.safetensors"], "hf://a/b", InvalidListing, "no config.json and no tokenizer.json"),
        (["config.json", "tokenizer.json", "a.safetensors"], "hf://a/b", InvalidListing, "neither model.safetensors"),
    ],
)
def test_what_is_no_checkpoint_is_refused_by_its_listing(
    names: list[str], source: str, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        refuse_incomplete(names, source)
