"""What an answer must look like: `response_format`, `structured_outputs` and `guided_*` to one grammar, and its check.

Everything is refused here, before a place is taken, and by the compiler that the engine uses too.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import llguidance
import msgspec

from wenxin_runtime.errors import InvalidRequest
from wenxin_runtime.grammars import MAX_GRAMMAR_BYTES, GrammarError, Grammars
from wenxin_runtime.ipc import Structured
from wenxin_runtime.server.openai import json_schema
from wenxin_runtime.server.openai.json_schema import Schema
from wenxin_runtime.server.openai.schemas import GenerationRequest, ResponseFormat, StructuredOutputs

_NOTHING = (b"", b"null")

# Wherever JSON allows white space; without a bound a weak model may write nothing else until its answer is cut.
_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,64}"
# One grammar is compiled at a time; this is for all that were asked for before, too.
_PATIENCE_SECONDS = 10.0
# Regular expressions and grammars of a client's own: compiling takes up to the square of their length.
_MAX_PATTERN_BYTES = 16 * 1024
_ANY_OBJECT: Schema = {"type": "object"}
_NO_ARGUMENTS: Schema = {"type": "object", "properties": {}, "additionalProperties": False}


class ToolSpec(NamedTuple):
    """A function that may be called, and the JSON schema of its arguments; an empty one: it takes none."""

    name: str
    parameters: Mapping[str, Any]


class _Wish(NamedTuple):
    """One field that says what the answer must look like, and how to read it."""

    param: str
    grammar: Callable[[], str]


async def structured_output(request: GenerationRequest, grammars: Grammars) -> Structured | None:
    """Return what the answer must look like, compiled once to see that it can be; None where nothing is asked.

    Raises:
        InvalidRequest: names the field; or two fields that exclude each other.
    """
    wishes = [*_of_response_format(request.response_format), *_of_structured_outputs(request), *_of_guided(request)]
    if not wishes:
        return None
    if len(wishes) > 1:
        first, second = wishes[0].param, wishes[1].param
        raise InvalidRequest(f"{first} and {second} exclude each other: keep one of them", param=second)
    wish = wishes[0]
    return await checked(Structured(wish.grammar()), grammars, param=wish.param)


async def checked(structured: Structured, grammars: Grammars, *, param: str) -> Structured:
    """Return `structured`, once it is known to compile.

    Raises:
        InvalidRequest: it does not; blames `param` and says why.
    """
    grammar = structured.grammar
    _check_size(grammar, param)
    try:
        if not grammars.knows(grammar):
            await asyncio.wait_for(asyncio.wrap_future(grammars.compiling(grammar)), _PATIENCE_SECONDS)
        grammars.matcher(grammar)
    except TimeoutError as error:
        reason = f"{param} could not be compiled within {_PATIENCE_SECONDS:.0f} s; make it simpler, or try again"
        raise InvalidRequest(reason, param=param) from error
    except GrammarError as error:
        raise InvalidRequest(f"{param}: {error}", param=param) from error
    return structured


def tool_call_grammar(
    tools: Sequence[ToolSpec], *, parallel: bool, special_ids: Mapping[str, int] | None = None
) -> Structured:
    """Build the grammar of an answer that calls `tools`, in ERNIE's own format; `checked` says whether it compiles.

    A call is `<tool_call>`, a line with `{"name": ..., "arguments": {...}}`, and `</tool_call>`.

    Args:
        tools: At least one; any of them may be called.
        parallel: Whether further calls may follow, each on a new line.
        special_ids: Ids of the tokenizer's special tokens by their text, for a tokenizer where the two tags are such.

    Raises:
        InvalidRequest: a schema cannot be read; blames `tools[i].function.parameters`.
    """
    known = special_ids or {}
    opening, closing = (f"<[{known[tag]}]>" if tag in known else f'"{tag}"' for tag in ("<tool_call>", "</tool_call>"))
    calls = {"anyOf": [_call(tool, i) for i, tool in enumerate(tools)], **_json_options()}
    more = r' ("\n" call)*' if parallel else ""
    return Structured(
        f'start: call{more}\ncall: {opening} "\\n" body "\\n" {closing}\nbody: %json {_json_text(calls)}\n'
    )


def _of_response_format(given: ResponseFormat | None) -> list[_Wish]:
    if given is None or given.type == "text":
        return []
    if given.type == "json_object":
        return [_Wish("response_format", lambda: _json_grammar(_ANY_OBJECT))]
    if given.json_schema is None:
        raise InvalidRequest("response_format.json_schema is required", param="response_format.json_schema")
    param, schema = "response_format.json_schema.schema", given.json_schema.schema
    if bytes(schema) in _NOTHING:
        raise InvalidRequest(f"{param} is required", param=param)
    return [_Wish(param, lambda: _json_grammar(_schema(schema, param), param))]


def _of_structured_outputs(request: GenerationRequest) -> list[_Wish]:
    given = request.structured_outputs
    if given is None:
        return []
    prefix = "structured_outputs"
    if given.structural_tag is not None:
        param = f"{prefix}.structural_tag"
        raise InvalidRequest(f"{param} is not supported by this server", param=param, code="unsupported_parameter")
    found = _wishes(prefix + ".", given.json, given.regex, given.choice, given.grammar, given)
    if given.json_object:
        found.append(_Wish(f"{prefix}.json_object", lambda: _json_grammar(_ANY_OBJECT, options=given)))
    if not found:
        raise InvalidRequest(f"{prefix} must hold one of json, regex, choice, grammar, json_object", param=prefix)
    return found


def _of_guided(request: GenerationRequest) -> list[_Wish]:
    options = StructuredOutputs(whitespace_pattern=request.guided_whitespace_pattern)
    given = (request.guided_json, request.guided_regex, request.guided_choice, request.guided_grammar)
    return _wishes("guided_", *given, options)


def _wishes(
    prefix: str,
    schema: msgspec.Raw,
    regex: str | None,
    choice: list[str] | None,
    grammar: str | None,
    options: StructuredOutputs,
) -> list[_Wish]:
    """List those of the four that are given."""
    found = []
    if bytes(schema) not in _NOTHING:
        param = f"{prefix}json"
        found.append(_Wish(param, lambda: _json_grammar(_schema(schema, param), param, options)))
    if regex is not None:
        found.append(_Wish(f"{prefix}regex", lambda: _regex_grammar(regex, f"{prefix}regex")))
    if choice is not None:
        found.append(_Wish(f"{prefix}choice", lambda: _choice_grammar(choice, f"{prefix}choice")))
    if grammar is not None:
        found.append(_Wish(f"{prefix}grammar", lambda: _lark_grammar(grammar, f"{prefix}grammar")))
    return found


def _json_grammar(schema: Schema, param: str = "", options: StructuredOutputs | None = None) -> str:
    schema = json_schema.rewritten(schema, json_schema.without_remarks, param=param)
    if options is not None and options.disable_additional_properties:
        schema = json_schema.rewritten(schema, json_schema.closed, param=param)
    return _json_text({"grammars": [{"json_schema": {**schema, **_json_options(options)}}]})


def _schema(given: msgspec.Raw, param: str) -> Schema:
    """Read a schema, which vLLM also takes as a string of JSON."""
    if len(bytes(given)) > MAX_GRAMMAR_BYTES:
        raise _too_large(param, MAX_GRAMMAR_BYTES)
    try:
        schema = msgspec.json.decode(given)
        if isinstance(schema, str):
            schema = msgspec.json.decode(schema)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"{param} is no JSON: {error}", param=param) from error
    if not isinstance(schema, dict):
        raise InvalidRequest(f"{param} must be a JSON schema, an object", param=param)
    return schema


def _json_options(options: StructuredOutputs | None = None) -> Schema:
    """Say how JSON is spelled. Takes the place of what a client may have written into its schema under this key."""
    if options is not None and options.disable_any_whitespace:
        return {"x-guidance": {"whitespace_flexible": False}}
    pattern = options.whitespace_pattern if options is not None else None
    return {"x-guidance": {"whitespace_pattern": _WHITESPACE if pattern is None else pattern}}


def _regex_grammar(regex: str, param: str) -> str:
    if not regex:
        raise InvalidRequest(f"{param} must not be empty", param=param)
    _check_size(regex, param, _MAX_PATTERN_BYTES)
    return llguidance.LLMatcher.grammar_from_regex(regex)


def _choice_grammar(choice: list[str], param: str) -> str:
    if not choice:
        raise InvalidRequest(f"{param} must hold at least one choice", param=param)
    if "" in choice:
        param = f"{param}[{choice.index('')}]"
        raise InvalidRequest(f"{param} must not be empty", param=param)
    return "start: " + " | ".join(json.dumps(each) for each in dict.fromkeys(choice))


def _lark_grammar(grammar: str, param: str) -> str:
    """Take Lark as it is, and GBNF (`root ::= ...`) translated, as vLLM does."""
    if not grammar.strip():
        raise InvalidRequest(f"{param} must not be empty", param=param)
    _check_size(grammar, param, _MAX_PATTERN_BYTES)
    try:
        return llguidance.grammar_from("grammar", grammar)
    except ValueError as error:
        raise InvalidRequest(f"{param}: {error}", param=param) from error


def _call(tool: ToolSpec, number: int) -> Schema:
    param = f"tools[{number}].function.parameters"
    move = json_schema.moved(f"#/anyOf/{number}/properties/arguments")
    arguments = dict(tool.parameters) or _NO_ARGUMENTS
    return {
        "type": "object",
        "properties": {
            "name": {"const": tool.name},
            "arguments": json_schema.rewritten(
                arguments, lambda schema: move(json_schema.without_remarks(schema)), param=param
            ),
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _check_size(text: str, param: str, most: int = MAX_GRAMMAR_BYTES) -> None:
    if len(text.encode()) > most:
        raise _too_large(param, most)


def _too_large(param: str, most: int) -> InvalidRequest:
    return InvalidRequest(f"{param} is too large: at most {most} bytes are taken", param=param)
