"""How a checkpoint's model writes in a chat: whether it thinks, whether and how it calls tools."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.server.openai import reasoning, tool_calls
from wenxin_runtime.tokenizer import Tokenizer

# Enough tokens to hold `<think>`, spelled in any way, and some newlines.
_TAIL_TOKENS = 24


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """What the chat endpoint needs to know of a model.

    Attributes:
        thinks: Its answers may begin with a thought, which is to be told apart.
        calls_tools: Calls in its answers are to be found.
        takes_tools: Its chat template shows it the tools.
        think_end_ids: The tokens of `</think>`.
        special_ids: The tags that are special tokens, by their text.
    """

    thinks: bool = False
    calls_tools: bool = False
    takes_tools: bool = False
    think_end_ids: tuple[int, ...] = ()
    special_ids: Mapping[str, int] = field(default_factory=dict)

    def special_ids_of(self, *, thinking: bool, calls: bool) -> frozenset[int]:
        """Return the ids of those tags that are special tokens."""
        tags = (reasoning.TAGS if thinking else ()) + (tool_calls.TAGS if calls else ())
        return frozenset(self.special_ids[tag] for tag in tags if tag in self.special_ids)


def read(tokenizer: Tokenizer, config: RuntimeConfig) -> ChatFormat:
    """Find out how the model writes, as far as the flags leave it open.

    It thinks if its template, or its vocabulary, has the tags of a thought. It calls tools if its template shows them
    to it and speaks of `<tool_call>`.
    """
    template = tokenizer.template
    has_tags = all(tokenizer.is_added(tag) for tag in (reasoning.THINK, reasoning.THINK_END))
    thinks = has_tags or (template is not None and template.writes(reasoning.THINK))
    takes_tools = template is not None and template.reads("tools")
    calls_tools = takes_tools and template is not None and template.writes(tool_calls.TOOL_CALL)
    found = {tag: tokenizer.id_of(tag) for tag in (*reasoning.TAGS, *tool_calls.TAGS)}
    return ChatFormat(
        thinks=_chosen(config.reasoning_parser, auto=thinks),
        calls_tools=_chosen(config.tool_call_parser, auto=calls_tools),
        takes_tools=takes_tools,
        think_end_ids=tuple(tokenizer.encode_continuation(reasoning.THINK_END)),
        special_ids={tag: i for tag, i in found.items() if i is not None and i in tokenizer.pieces.special_ids},
    )


def stage_after(prompt_ids: tuple[int, ...], tokenizer: Tokenizer, *, continued: bool) -> reasoning.Stage:
    """Say where the answer to this prompt begins; see `reasoning.stage_of`."""
    ids = prompt_ids if continued else prompt_ids[-_TAIL_TOKENS:]
    return reasoning.stage_of(tokenizer.decode(ids, skip_special_tokens=False), continued=continued)


def _chosen(flag: str, *, auto: bool) -> bool:
    return auto if flag == "auto" else flag != "none"
