"""Bound answers through the real engine over a tiny random model: whatever it would like to say."""

import json
import re
import threading

import jsonschema
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher

from tests.wenxin_runtime.engine_driver import VOCAB, Answer, finish, gather, prompt, submit
from wenxin_runtime.engine.constraints.factory import Constraints
from wenxin_runtime.grammars import Grammars
from wenxin_runtime.ipc import Structured
from wenxin_runtime.tokenizer import Detokenizer, Tokenizer

EOS = 2
HOT = {"temperature": 1.0, "ignore_eos": False, "max_tokens": 300}


@pytest.fixture(scope="module")
def tokenizer(tiny) -> Tokenizer:
    return Tokenizer.load(tiny)


@pytest.fixture(scope="module")
def constraints(tokenizer) -> Constraints:
    return Constraints(
        lambda: Grammars(tokenizer, vocab_size=VOCAB, eos_token_ids=(EOS,)), vocab_size=VOCAB, eos_token_ids=(EOS,)
    )


@pytest.fixture(scope="module")
def bound(make, constraints):
    """Make engines that know grammars."""
    return lambda **options: make(eos=(EOS,), constrain=constraints, **options)


@pytest.fixture(scope="module")
def text(tokenizer):
    def text(answer: Answer) -> str:
        detokenizer = Detokenizer(tokenizer.pieces)
        return "".join(detokenizer.feed(token) for token in answer.token_ids)

    return text


def schema(content) -> Structured:
    compact = {"x-guidance": {"whitespace_flexible": False}}
    return Structured(LLMatcher.grammar_from_json_schema(json.dumps({**content, **compact})))


def regex(pattern: str) -> Structured:
    return Structured(LLMatcher.grammar_from_regex(pattern))


def choice(*texts: str) -> Structured:
    return Structured("start: " + " | ".join(map(json.dumps, texts)))


def integers(low, size):
    return {"type": "integer", "minimum": low, "maximum": low + size}


SCALARS = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(integers, st.integers(-999, 999), st.integers(0, 99)),
    st.builds(lambda size: {"type": "string", "maxLength": size}, st.integers(0, 5)),
    st.builds(lambda texts: {"enum": texts}, st.lists(st.text(max_size=4), min_size=1, max_size=3, unique=True)),
    st.just({"type": "string", "pattern": "^[a-c]{2,3}$"}),
    st.just({"type": "string", "format": "date"}),
)


def objects(children):
    names = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=3)
    return st.builds(
        lambda properties, required: {
            "type": "object",
            "properties": properties,
            "required": sorted(properties)[:required],
            "additionalProperties": False,
        },
        st.dictionaries(names, children, max_size=3),
        st.integers(0, 3),
    )


SCHEMAS = st.recursive(
    SCALARS,
    lambda children: st.one_of(
        objects(children),
        st.builds(lambda items, most: {"type": "array", "items": items, "maxItems": most}, children, st.integers(0, 2)),
        st.builds(lambda options: {"anyOf": options}, st.lists(children, min_size=1, max_size=2)),
    ),
    max_leaves=5,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(wanted=SCHEMAS, seed=st.integers(0, 999), asynchronous=st.booleans())
def test_every_answer_is_valid_under_its_schema(bound, text, wanted, seed, asynchronous):
    message = submit("a", prompt(5), structured=schema(wanted), seed=seed, siblings=("b",), **HOT)
    answers = finish(bound(asynchronous=asynchronous), [message])
    for answer in answers.values():
        assert answer.last.error is None
        assume(answer.last.finish_reason == "stop")
        jsonschema.validate(json.loads(text(answer)), wanted)


REGEXES = st.recursive(
    st.sampled_from(["a", "[0-9]", "[a-f]{1,3}", "北京", "x?", "[^a-z\\n]", "(?:ab|cd)"]),
    lambda parts: st.one_of(
        st.builds(lambda left, right: left + right, parts, parts),
        st.builds(lambda left, right: f"(?:{left}|{right})", parts, parts),
        st.builds(lambda part: f"(?:{part}){{1,2}}", parts),
    ),
    max_leaves=6,
).filter(lambda pattern: re.fullmatch(pattern, "") is None)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pattern=REGEXES, seed=st.integers(0, 999))
def test_every_answer_matches_the_whole_of_its_regex(bound, text, pattern, seed):
    answer = finish(bound(), [submit("a", prompt(5), structured=regex(pattern), seed=seed, **HOT)])["a"]
    assert (answer.last.finish_reason, answer.last.error) == ("stop", None)
    assert re.fullmatch(pattern, text(answer)), (pattern, text(answer))


@pytest.mark.parametrize("texts", [("yes", "no"), ("北京", "上海"), ("a", "ab", "abc"), ('q"u\\o\n', "\t"), ("龘😀",)])
def test_an_answer_is_one_of_the_choices(bound, text, texts):
    wanted = [submit(str(n), prompt(5, n), structured=choice(*texts), seed=n, **HOT) for n in range(6)]
    answers = finish(bound(), wanted)
    assert {text(answer) for answer in answers.values()} <= set(texts)
    assert {answer.last.finish_reason for answer in answers.values()} == {"stop"}


def test_a_complete_grammar_ends_the_answer_without_a_token_for_it(bound, text):
    answer = finish(bound(), [submit("a", prompt(5), structured=regex("ab"), **HOT)])["a"]
    assert (text(answer), answer.last.finish_reason, answer.last.stop_token_id) == ("ab", "stop", None)


@pytest.mark.parametrize("ending", [{"ignore_eos": False}, {"stop_token_ids": (EOS,)}, {"stop_token_ids": (700,)}])
def test_an_answer_ends_by_eos_or_a_stop_token_only_where_the_grammar_may(bound, text, ending):
    end = ending.get("stop_token_ids", (EOS,))[0]
    eager = {"logit_bias": {end: 100.0}, "temperature": 0.0, "structured": regex("(ab)+"), "max_tokens": 9}
    answer = finish(bound(), [submit("a", prompt(5), **eager, **ending)])["a"]
    assert (answer.last.finish_reason, answer.last.stop_token_id) == ("stop", end)
    assert text(answer).startswith("ab")
    assert answer.token_ids.count(end) == 1


def test_ignore_eos_and_min_tokens_put_the_end_off_as_long_as_the_grammar_can_go_on(bound, text):
    eager = {"logit_bias": {EOS: 100.0}, "structured": regex("[ab]+")}
    wanted = [
        submit("ignoring", prompt(5), **eager, max_tokens=9),
        submit("long", prompt(5), **eager, max_tokens=9, min_tokens=4, ignore_eos=False),
        submit("complete", prompt(5), structured=regex("[ab]{2}"), max_tokens=9, min_tokens=8),
    ]
    answers = finish(bound(), wanted)
    assert (len(answers["ignoring"].token_ids), answers["ignoring"].last.finish_reason) == (9, "length")
    assert (len(answers["long"].token_ids), answers["long"].last.finish_reason) == (5, "stop")
    assert (len(text(answers["complete"])), answers["complete"].last.finish_reason) == (2, "stop")


def test_max_tokens_cuts_an_answer_wherever_it_is(bound, text):
    answer = finish(bound(), [submit("a", prompt(5), structured=regex("[0-9]{50}"), max_tokens=4)])["a"]
    assert (len(answer.token_ids), answer.last.finish_reason) == (4, "length")
    assert text(answer).isdigit()


def test_neighbours_in_the_batch_say_what_they_always_say(bound, make):
    free = [submit(f"free-{n}", prompt(9, n), seed=n, temperature=0.9) for n in range(3)]
    structured = [submit(f"s-{n}", prompt(9, n), structured=regex("[0-9]{8}"), seed=n, **HOT) for n in range(3)]
    alone = finish(make(), free)
    together = finish(bound(), [message for pair in zip(structured, free, strict=True) for message in pair])
    assert {name: together[name].token_ids for name in alone} == {name: a.token_ids for name, a in alone.items()}


def test_an_answer_repeats_with_its_seed_through_preemption_and_either_kind_of_step(bound):
    pattern = regex("[0-9]{30}")
    wanted = [submit(str(n), prompt(60, n), structured=pattern, seed=n, **HOT) for n in range(4)]
    first = {name: answer.token_ids for name, answer in finish(bound(), wanted).items()}
    assert len({tuple(token_ids) for token_ids in first.values()}) == 4
    for options in ({"blocks": 9}, {"asynchronous": True}, {"asynchronous": True, "blocks": 9, "budget": 16}):
        engine = bound(**options)
        answers = finish(engine, wanted)
        assert {name: answer.token_ids for name, answer in answers.items()} == first
        assert (engine.step().stats.preemptions_total > 0) == ("blocks" in options)


def test_choices_of_one_prompt_each_follow_the_grammar_on_their_own(bound, text):
    message = submit("a", prompt(5), structured=regex("[a-z]{12}"), siblings=("b", "c"), seed=5, **HOT)
    answers = [text(answer) for answer in finish(bound(), [message]).values()]
    assert len(set(answers)) == 3
    assert all(re.fullmatch("[a-z]{12}", answer) for answer in answers)


def test_logprobs_are_of_what_the_model_would_have_said(bound):
    wanted = submit("a", prompt(5), structured=regex("[0-9]{6}"), logprobs=2, **HOT)
    answer = finish(bound(), [wanted])["a"]
    assert len(answer.logprobs) == len(answer.token_ids)
    free = finish(bound(), [submit("b", prompt(5), logprobs=2)])["b"]
    assert answer.logprobs[0].top == free.logprobs[0].top
    assert all(entry.rank > 2 or entry.logprob == entry.top[entry.rank - 1][1] for entry in answer.logprobs)


def test_allowed_token_ids_are_the_only_ones(bound):
    answer = finish(bound(), [submit("a", prompt(5), allowed_token_ids=(400, 401), **HOT)])["a"]
    assert set(answer.token_ids) == {400, 401}
    assert answer.last.finish_reason == "length"


def test_bad_words_are_never_completed(bound):
    greedy = finish(bound(), [submit("a", prompt(5))])["a"].token_ids
    for word in ((greedy[0],), tuple(greedy[:3]), tuple(greedy[2:5])):
        found = finish(bound(), [submit("a", prompt(5), bad_words_ids=(word,))])["a"].token_ids
        assert found != greedy
        assert all(tuple(found[i : i + len(word)]) != word for i in range(len(found)))


def test_word_lists_and_grammar_hold_together(bound, text, tokenizer):
    (three,) = tokenizer.encode("3")
    wanted = submit("a", prompt(5), structured=regex("[34]{5}"), bad_words_ids=((three,),), **HOT)
    assert text(finish(bound(), [wanted])["a"]) == "44444"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"structured": regex("ab"), "allowed_token_ids": (400,)}, "leave no token that the grammar allows"),
        ({"allowed_token_ids": (400,), "bad_words_ids": ((400,),)}, "leave no token"),
        ({"structured": regex("(")}, "unclosed group"),
        ({"structured": Structured('start: "a" b\nb: b "c"')}, "the grammar"),
        ({"allowed_token_ids": (VOCAB,)}, "leaves the vocabulary"),
        ({"allowed_token_ids": ()}, "empty"),
        ({"bad_words_ids": ((),)}, "empty"),
    ],
    ids=str,
)
def test_what_cannot_be_fulfilled_ends_its_own_request_with_the_reason(bound, asked, said):
    engine = bound()
    fine = finish(bound(), [submit("fine", prompt(5))])["fine"].token_ids
    answers = finish(engine, [submit("a", prompt(5), **asked), submit("fine", prompt(5))])
    assert answers["a"].last.finish_reason == "error"
    assert said in answers["a"].last.error
    assert answers["fine"].token_ids == fine
    assert engine.step().stats.kv_blocks_used == 0


def test_thinking_is_free_and_the_answer_follows_the_grammar(bound, text):
    ended = {"think_end_ids": (700, 701), "thinking_budget": 6}
    eager = {"logit_bias": {EOS: 100.0}, "structured": regex("[0-9]{3}"), "max_tokens": 40}
    answer = finish(bound(), [submit("a", prompt(5), **eager, **ended, ignore_eos=False)])["a"]
    assert answer.token_ids[6:8] == [700, 701]
    assert EOS not in answer.token_ids[:8]
    answer.deltas = answer.deltas[8:]
    assert re.fullmatch("[0-9]{3}", text(answer))
    assert answer.last.finish_reason == "stop"


def test_a_budget_ends_the_thinking_whatever_else_is_asked_and_nothing_more(bound):
    free = finish(bound(), [submit("a", prompt(5), max_tokens=20)])["a"].token_ids
    ended = {"think_end_ids": (700, 701), "thinking_budget": 6, "max_tokens": 20}
    plain = finish(bound(), [submit("a", prompt(5), **ended)])["a"].token_ids
    assert plain[:8] == [*free[:6], 700, 701]
    assert len(plain) == 20
    listed = {"allowed_token_ids": (400,), "bad_words_ids": ((701,),)}
    bounded = finish(bound(), [submit("a", prompt(5), **ended, **listed)])["a"].token_ids
    assert bounded == [400] * 6 + [700, 701] + [400] * 12


def test_thinking_that_ends_by_itself_is_left_alone(bound, text):
    wanted = {"think_end_ids": (700,), "thinking_budget": 50, "structured": regex("ab"), "logit_bias": {700: 100.0}}
    answer = finish(bound(), [submit("a", prompt(5), max_tokens=40, **wanted)])["a"]
    assert answer.token_ids[0] == 700
    answer.deltas = answer.deltas[1:]
    assert text(answer) == "ab"


@pytest.fixture
def slow(make, tokenizer):
    """Make an engine whose grammars are not there before the event is set."""
    there = threading.Event()

    def grammars() -> Grammars:
        assert there.wait(60)
        return Grammars(tokenizer, vocab_size=VOCAB, eos_token_ids=(EOS,))

    constraints = Constraints(grammars, vocab_size=VOCAB, eos_token_ids=(EOS,))
    yield make(eos=(EOS,), constrain=constraints), there
    there.set()


def test_nobody_waits_for_a_grammar_that_is_being_compiled_but_its_own_request(slow, text):
    engine, there = slow
    engine.submit(submit("a", prompt(5), structured=regex("ab"), **HOT))
    engine.submit(submit("b", prompt(5), structured=regex("ab"), **HOT))
    answers = {}
    engine.submit(submit("fine", prompt(5)))
    while not answers or answers["fine"].last.finish_reason is None:
        outputs = engine.step()
        assert outputs.stats.waiting == 2
        gather(outputs, answers)
    assert answers.keys() == {"fine"}
    assert engine.busy
    there.set()
    while engine.busy:
        gather(engine.step(), answers)
    assert (text(answers["a"]), text(answers["b"])) == ("ab", "ab")


def test_a_request_is_forgotten_while_its_grammar_is_compiled(slow):
    engine, there = slow
    engine.submit(submit("a", prompt(5), structured=regex("ab"), **HOT))
    engine.submit(submit("b", prompt(5), structured=regex("ab"), siblings=("c",), **HOT))
    engine.abort(["a", "c", "unknown"])
    assert engine.step().stats.waiting == 1
    there.set()
    answers = finish(engine)
    assert answers.keys() == {"b"}
    assert engine.step().stats.kv_blocks_used == 0


def test_without_a_vocabulary_only_structured_requests_fail(make):
    def broken() -> Grammars:
        raise ValueError("tokenizer.json is gone")

    engine = make(eos=(EOS,), constrain=Constraints(broken, vocab_size=VOCAB, eos_token_ids=(EOS,)))
    wanted = [submit("a", prompt(5), structured=regex("ab")), submit("fine", prompt(5), allowed_token_ids=(400,))]
    answers = finish(engine, wanted)
    assert "tokenizer.json is gone" in answers["a"].last.error
    assert answers["fine"].token_ids == [400] * 8
