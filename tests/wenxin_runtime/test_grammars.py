"""What a grammar is refused for, and that the two processes spell text as the tokenizer does."""

import contextlib
import json

import numpy as np
import pytest
import tokenizers
from llguidance import LLMatcher
from tokenizers import AddedToken

from wenxin_runtime import fixture
from wenxin_runtime.grammars import MAX_GRAMMAR_BYTES, GrammarError, Grammars, bitmask_of, readable
from wenxin_runtime.tokenizer import Tokenizer

VOCAB = 1536
EOS = 2


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return Tokenizer.load(fixture.write(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def grammars(tokenizer) -> Grammars:
    return Grammars(tokenizer, vocab_size=VOCAB, eos_token_ids=(EOS,))


def of_schema(schema) -> str:
    return LLMatcher.grammar_from_json_schema(json.dumps(schema))


def allowed(matcher: LLMatcher) -> set[int]:
    return set(np.flatnonzero(np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")))


def accepts(matcher: LLMatcher, token_ids: list[int]) -> bool:
    return matcher.consume_tokens(token_ids) and matcher.is_accepting()


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (of_schema({"type": "strin"}), "Invalid type: strin"),
        (of_schema({"type": "string", "minLength": 5, "maxLength": 2}), "minLength (5) is greater than maxLength (2)"),
        (of_schema({"type": "integer", "minimum": 5, "maximum": 4}), "minimum (5) is greater than maximum (4)"),
        (of_schema({"allOf": [{"type": "string"}, {"type": "null"}]}), "incompatible types"),
        (of_schema({"enum": []}), "Unsatisfiable schema"),
        (of_schema({"type": "array", "uniqueItems": True}), "a schema with uniqueItems is not supported"),
        (of_schema({"if": {}, "then": {}}), "a schema with if, then is not supported"),
        (of_schema({"$ref": "https://example.com/schema"}), "does not fetch resources"),
        (of_schema({"$ref": "#"}), "no answer can follow it"),
        (of_schema({"type": "string", "pattern": "(?=a)b"}), "not a supported regular expression: look-around"),
        (LLMatcher.grammar_from_regex("("), "not a supported regular expression: unclosed group"),
        (LLMatcher.grammar_from_regex(r"(a)\1"), "not a supported regular expression: backreferences"),
        (LLMatcher.grammar_from_regex(r"\bfoo\b"), "not a supported regular expression: lookarounds"),
        ("start: foo", 'line 1, column 8: unknown name: "foo"'),
        ('start: "a" <nothing>', 'line 1, column 8: unknown special token: "<nothing>"'),
        ("start: ", "only an empty answer could follow it"),
        ("", "Empty grammar"),
        ("{}", "missing field"),
        ("start ::= 'a'", "line 1, column"),
    ],
)
def test_what_no_answer_can_follow_is_refused_with_a_reason_in_one_line(grammars, grammar, reason):
    for _ in range(2):  # the second time from the cache
        with pytest.raises(GrammarError) as refused:
            grammars.matcher(grammar)
        assert reason in str(refused.value)
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 300
    assert grammars.knows(grammar)


def chained(count: int, link) -> dict:
    """Chain references, each of which takes stack to follow."""
    links = {f"a{i}": link({"$ref": f"#/$defs/a{i + 1}"}) for i in range(count)}
    return {"$ref": "#/$defs/a0", "$defs": {**links, f"a{count}": {"type": "integer"}}}


@pytest.mark.parametrize(
    "grammar",
    [
        of_schema(chained(1500, lambda following: following)),
        of_schema(chained(1000, lambda following: {"type": "array", "items": following, "minItems": 1})),
        of_schema(chained(800, lambda following: {"properties": {"a": following}, "required": ["a"]})),
        "start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(4500)) + '\nr4500: "b"',
        "start: A0\n" + "\n".join(f'A{i}: "a" | ("c" A{i + 1})' for i in range(2500)) + '\nA2500: "b"',
    ],
    ids=lambda grammar: grammar[:60],
)
def test_a_long_chain_of_references_takes_no_process_down(grammars, grammar):
    assert 0.7 * MAX_GRAMMAR_BYTES < len(grammar) <= 1.3 * MAX_GRAMMAR_BYTES
    with contextlib.suppress(GrammarError):
        assert allowed(grammars.matcher(grammar))
    assert grammars.knows(grammar)


def test_a_grammar_that_takes_too_long_is_refused_for_it(tokenizer):
    hasty = Grammars(tokenizer, vocab_size=VOCAB, eos_token_ids=(EOS,), most_seconds=0)
    with pytest.raises(GrammarError, match="too complex"):
        hasty.matcher(LLMatcher.grammar_from_regex("a"))


def test_a_matcher_is_the_callers_own(grammars, tokenizer):
    grammar = LLMatcher.grammar_from_regex("ab|cd")
    first, second = grammars.matcher(grammar), grammars.matcher(grammar)
    assert accepts(first, tokenizer.encode("ab"))
    assert accepts(second, tokenizer.encode("cd"))


def test_only_the_grammars_used_last_are_kept(grammars):
    first = LLMatcher.grammar_from_regex("first")
    grammars.matcher(first)
    for n in range(64):
        assert grammars.knows(first)
        grammars.matcher(LLMatcher.grammar_from_regex(f"a{n}"))
    assert not grammars.knows(first)


def test_special_tokens_are_no_text_and_eos_only_ends(grammars, tokenizer):
    matcher = grammars.matcher(LLMatcher.grammar_from_regex("(.|\n)*"))
    assert allowed(matcher) & tokenizer.pieces.special_ids == {EOS}
    closed = grammars.matcher(LLMatcher.grammar_from_regex("</s>"))
    assert EOS not in allowed(closed)
    assert accepts(closed, _as_pieces(tokenizer, "</s>"))


def test_a_model_without_eos_ends_where_nothing_can_follow(tokenizer):
    grammars = Grammars(tokenizer, vocab_size=VOCAB, eos_token_ids=())
    matcher = grammars.matcher(LLMatcher.grammar_from_regex("ab?"))
    assert accepts(matcher, tokenizer.encode("a"))
    assert matcher.consume_tokens(tokenizer.encode("b"))
    assert matcher.is_stopped()


def test_columns_of_the_logits_beyond_the_tokenizer_are_never_allowed(tokenizer):
    wide = Grammars(tokenizer, vocab_size=2000, eos_token_ids=(EOS,))
    matcher = wide.matcher(LLMatcher.grammar_from_regex("(.|\n)+"))
    assert max(allowed(matcher)) < VOCAB


@pytest.mark.parametrize("text", ["the weather", "北京的天气", '{"name": "x"}', "龘😀", "\n\n  \n", "</s>", "<s>a"])
def test_a_text_that_is_the_only_one_is_written_as_the_tokenizer_spells_it(grammars, tokenizer, text):
    matcher = grammars.matcher(LLMatcher.grammar_from_regex(_escaped(text)))
    written = []
    while not matcher.is_stopped():
        (token,) = allowed(matcher)
        assert matcher.consume_token(int(token))
        written.append(int(token))
    assert b"".join(tokenizer.pieces[token] for token in written) == text.encode()
    if "<" not in text:
        assert written == tokenizer.encode(text)


def test_a_tokenizer_that_puts_a_space_before_a_text_does_so_in_no_answer(tokenizer):
    content = json.loads(tokenizer._backend.to_str())
    content["normalizer"] = {
        "type": "Sequence",
        "normalizers": [{"type": "Prepend", "prepend": "▁"}, content["normalizer"]],
    }
    backend = tokenizers.Tokenizer.from_str(json.dumps(content))
    backend.add_special_tokens([AddedToken("</s>", normalized=False, special=True)])
    prefixing = Tokenizer(backend)
    matcher = Grammars(prefixing, vocab_size=VOCAB, eos_token_ids=(EOS,)).matcher(
        LLMatcher.grammar_from_regex("weather")
    )
    written = []
    while not matcher.is_stopped():
        (token,) = allowed(matcher)
        assert matcher.consume_token(int(token))
        written.append(int(token))
    assert b"".join(prefixing.pieces[token] for token in written) == b"weather"


def test_a_bitmask_holds_exactly_its_tokens():
    mask = bitmask_of([0, 31, 32, 63, 99], 100)
    assert (mask.dtype, mask.shape) == (np.int32, (4,))
    assert np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist() == [0, 31, 32, 63, 99]


def test_a_report_of_several_lines_becomes_one_sentence():
    assert readable("NoExtensionBias\n<non-verbose/>") == "no answer can follow it"
    assert readable("Empty grammar\nmore") == "Empty grammar"


def _escaped(text: str) -> str:
    return "".join(f"\\x{{{ord(letter):x}}}" for letter in text)


def _as_pieces(tokenizer: Tokenizer, text: str) -> list[int]:
    by_text = {tokenizer.pieces[token]: token for token in range(9, VOCAB)}
    return [by_text[letter.encode()] for letter in text]
