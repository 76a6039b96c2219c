"""Render messages with the checkpoint's own Jinja template, in the sandbox and with the names transformers gives it.

Source of the conventions: `transformers.utils.chat_template_utils`.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.parser import Parser

from wenxin_runtime.errors import CheckpointError, InvalidRequest
from wenxin_runtime.tokenizer.template_sandbox import COUNTER, BoundedEnvironment, StepCounter

Message = Mapping[str, Any]

_CONTINUE_HERE = "CONTINUE_FINAL_MESSAGE_TAG "


class ChatTemplate:
    """One compiled template."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile `source`; `special_tokens` (`bos_token`, ...) are its globals.

        Raises:
            CheckpointError: the template is no valid Jinja.
        """
        self._special_tokens = dict(special_tokens)
        environment = _environment()
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise CheckpointError(f"the chat template is not valid Jinja: line {error.lineno}: {error}") from error
        parsed = environment.parse(source)
        self._literals = _literals_of(parsed)
        self._names = frozenset(node.name for node in parsed.find_all(jinja2.nodes.Name))

    def writes(self, token: str) -> bool:
        """Say whether `token` occurs in the template's own text, so that it is part of the chat format."""
        return any(token in literal for literal in self._literals)

    def reads(self, name: str) -> bool:
        """Say whether the template mentions the variable `name`."""
        return name in self._names

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Render a conversation; with `continue_final_message` the text ends inside the last message.

        Raises:
            InvalidRequest: the template refuses the messages or never comes to an end, or the last message cannot be
                continued.
        """
        chat = [{key: value for key, value in message.items() if value is not None} for message in messages]
        if continue_final_message:
            final = chat[-1].get("content")
            if not isinstance(final, str):
                raise InvalidRequest("continue_final_message needs text in the last message", param="messages")
            chat[-1] = {**chat[-1], "content": final + _CONTINUE_HERE}
        names = {**self._special_tokens, **(template_kwargs or {}), "messages": chat}
        names |= {"tools": list(tools) if tools else None, "documents": None}
        text = self._render(names | {"add_generation_prompt": add_generation_prompt})
        return _cut_at_tag(text) if continue_final_message else text

    def _render(self, names: Mapping[str, Any]) -> str:
        try:
            return self._template.render({**names, COUNTER: StepCounter()})
        except Exception as error:  # a template is code: whatever it trips over, it was these messages
            raise InvalidRequest(f"the chat template refuses the messages: {error}", param="messages") from error


def _cut_at_tag(text: str) -> str:
    at = text.rfind(_CONTINUE_HERE.strip())
    if at < 0:
        raise InvalidRequest("the chat template drops the end of the last message", param="continue_final_message")
    # Without its space the tag stands where the template has trimmed the message.
    return text[:at] if text.startswith(_CONTINUE_HERE, at) else text[:at].rstrip()


def _literals_of(parsed: jinja2.nodes.Template) -> list[str]:
    texts = [node.data for node in parsed.find_all(jinja2.nodes.TemplateData)]
    return texts + [node.value for node in parsed.find_all(jinja2.nodes.Const) if isinstance(node.value, str)]


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` marks what the assistant wrote, for training; rendering only passes its body on."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own declaration is a set

    def parse(self, parser: Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class _Namespace(jinja2.utils.Namespace):
    """jinja2's namespace without underscored names, which could reach the interpreter's internals."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}: it starts with an underscore")
        super().__setitem__(name, value)


def _environment() -> BoundedEnvironment:
    environment = BoundedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _raise, "strftime_now": _strftime_now, "namespace": _Namespace}
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Spell JSON without the HTML escapes of jinja2's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:  # noqa: A002 - templates may call it by keyword
    return datetime.now().astimezone().strftime(format)
