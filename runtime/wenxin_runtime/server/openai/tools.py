"""The tools of a request: which the model may see, which it may or must call."""

from dataclasses import dataclass
from typing import Any

import msgspec

from wenxin_runtime.errors import InvalidRequest
from wenxin_runtime.server.openai.chat_format import ChatFormat
from wenxin_runtime.server.openai.schemas import ChatRequest, NamedTool, Tool
from wenxin_runtime.server.openai.structured import ToolSpec


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Tools that may be called.

    Attributes:
        shown: What the chat template gets.
        forced: What the answer must call one of; None leaves the model free.
        parallel: Whether more than one call may come.
    """

    shown: list[dict[str, Any]]
    forced: tuple[ToolSpec, ...] | None
    parallel: bool


def tool_use(request: ChatRequest, chat_format: ChatFormat) -> ToolUse | None:
    """Check the request's tools; None where nothing may be called.

    Raises:
        InvalidRequest: the tools are malformed, the choice does not fit them, or this model cannot call any.
    """
    tools, choice = request.tools or [], request.tool_choice
    _check(tools)
    named = choice.function.name if isinstance(choice, NamedTool) else None
    if named is not None and named not in [tool.function.name for tool in tools]:
        raise InvalidRequest(f"tool_choice: no tool is called {named[:64]!r}", param="tool_choice")
    if choice == "required" and not tools:
        raise InvalidRequest("tool_choice is required, but there are no tools", param="tool_choice")
    if not tools or choice == "none":
        return None
    _check_model(chat_format)
    specs = [ToolSpec(tool.function.name, tool.function.parameters or {}) for tool in tools]
    forced = tuple(spec for spec in specs if named in (None, spec.name))
    return ToolUse(
        shown=msgspec.to_builtins(tools),
        forced=None if choice in (None, "auto") else forced,
        parallel=request.parallel_tool_calls is not False and named is None,
    )


def _check(tools: list[Tool]) -> None:
    seen: set[str] = set()
    for i, tool in enumerate(tools):
        name, parameters = tool.function.name, tool.function.parameters
        if name in seen:
            param = f"tools[{i}].function.name"
            raise InvalidRequest(f"{param}: two tools are called {name!r}", param=param)
        seen.add(name)
        if parameters is not None and parameters.get("type", "object") != "object":
            param = f"tools[{i}].function.parameters"
            raise InvalidRequest(f"{param} must be the JSON schema of an object", param=param)


def _check_model(chat_format: ChatFormat) -> None:
    if not chat_format.takes_tools:
        raise InvalidRequest(
            "this model's chat template has no place for tools; use a model that can call them, "
            'or send "tool_choice": "none"',
            param="tools",
        )
    if not chat_format.calls_tools:
        raise InvalidRequest(
            "this server looks for no tool calls in answers (--tool-call-parser); start it with "
            "--tool-call-parser ernie45 if the model writes <tool_call>",
            param="tools",
        )
