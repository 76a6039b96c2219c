r"""Find the tool calls in an answer, however its text is cut into pieces.

ERNIE writes `<tool_call>\n{"name": "f", "arguments": {...}}\n</tool_call>\n` for each call, with text before, between
and behind them where it likes.
"""

import enum
import json
import uuid

from wenxin_runtime.server.openai.json_object import JsonObjectReader
from wenxin_runtime.server.openai.piece import CallPart
from wenxin_runtime.server.openai.segments import Kind, Segment
from wenxin_runtime.tokenizer.stop_strings import possible_start

TOOL_CALL, TOOL_CALL_END = "<tool_call>", "</tool_call>"
TAGS = (TOOL_CALL, TOOL_CALL_END)


class _CallReader:
    """Reads the object of one call.

    Attributes:
        name: The function's name, once it is known.
        arguments: The characters of its arguments so far, as the model writes them.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.arguments: list[str] = []
        self._json = JsonObjectReader()
        self._key = ""
        self._member = ""
        self._spelled_name = ""

    @property
    def finished(self) -> bool:
        """Whether the object is complete; it has a name then."""
        return self._json.finished

    def feed(self, character: str) -> None:
        """Read the next character.

        Raises:
            ValueError: this is no call.
        """
        was_key, was_value = self._in_key, self._in_value
        self._json.feed(character)
        if was_key or self._in_key:
            self._key += character
            if not self._in_key:
                self._begin_member()
        elif was_value or self._in_value:
            self._take(character, begins=not was_value)
        if self.finished and not self.name:
            raise ValueError("a call needs a name")

    @property
    def _in_key(self) -> bool:
        return self._json.depth == 1 and self._json.in_key

    @property
    def _in_value(self) -> bool:
        """Whether a value of the call's own object is being read."""
        depth = self._json.depth
        return depth > 1 or (depth == 1 and not self._json.in_key and (self._json.in_string or self._json.in_word))

    def _begin_member(self) -> None:
        self._member, self._key = json.loads(self._key), ""
        if (self._member == "name" and self.name is not None) or (self._member == "arguments" and self.arguments):
            raise ValueError("a call has one name and one set of arguments")

    def _take(self, character: str, *, begins: bool) -> None:
        if self._member == "arguments":
            if begins and character != "{":
                raise ValueError("arguments are an object")
            self.arguments.append(character)
        elif self._member == "name":
            if begins and character != '"':
                raise ValueError("a name is a string")
            self._spelled_name += character
            if not self._in_value:
                self.name = json.loads(self._spelled_name)
                self.name.encode()  # a lone surrogate cannot be sent on


class _Stage(enum.Enum):
    TEXT = enum.auto()
    CALL = enum.auto()
    BEHIND_CALL = enum.auto()


class ToolCallSplitter:
    """Labels one answer's content as content and calls.

    What looks like a call and is none is content, tags included. Newlines between a call and a text are markup. The
    segments, put together, are the text.

    With `eager` a call is reported while it is written; where it breaks off or goes wrong after its name, what was
    reported stays, and its arguments are no valid JSON. Without, such a call is content.

    Attributes:
        called: Whether there was a call.
        finished: Whether the only call that was wanted is complete.
    """

    def __init__(self, *, eager: bool = False, only_one: bool = False) -> None:
        self.called = False
        self.finished = False
        self._eager = eager
        self._only_one = only_one
        self._stage = _Stage.TEXT
        self._held = ""
        self._behind_markup = False
        self._has_content = False
        self._index = 0
        self._reader = _CallReader()
        self._read = 0
        self._reported: int | None = None
        self._segments: list[Segment] = []
        self._parts: list[CallPart] = []

    def push(self, text: str) -> list[Segment]:
        """Add text; return what can be labelled."""
        self._held += text
        return self._run(final=False)

    def finish(self) -> list[Segment]:
        """The text has ended, or markup of another kind interrupts it: label what was held back."""
        found = self._run(final=True)
        self._stage, self._behind_markup = _Stage.TEXT, False
        return found

    def take_parts(self) -> list[CallPart]:
        """Return what has been added to the calls since this was last asked."""
        found, self._parts = self._parts, []
        return found

    def _run(self, *, final: bool) -> list[Segment]:
        while self._held and not self.finished and self._step(final=final):
            pass
        found, self._segments = self._segments, []
        return found

    def _step(self, *, final: bool) -> bool:
        """Label some text; return whether the stage has changed, so that more may be labelled."""
        match self._stage:
            case _Stage.TEXT:
                return self._text(final=final)
            case _Stage.CALL:
                return self._call(final=final)
            case _Stage.BEHIND_CALL:
                return self._behind_call(final=final)

    def _text(self, *, final: bool) -> bool:
        if self._behind_markup and not self._skip_newlines(final=final):
            return False
        at = self._held.find(TOOL_CALL)
        if at >= 0:
            self._label_content(len(self._held[:at].rstrip("\n")))
            self._read = self._held.find(TOOL_CALL) + len(TOOL_CALL)
            self._stage, self._reader, self._reported = _Stage.CALL, _CallReader(), None
            return True
        held = self._held
        keep = 0 if final else possible_start(held, (TOOL_CALL,))
        self._label_content(len(held) if final else len(held[: len(held) - keep].rstrip("\n")))
        return False

    def _skip_newlines(self, *, final: bool) -> bool:
        """Pass the newlines behind a call: they are content only between two texts. Return whether that is known."""
        text = self._held.lstrip("\n")
        if TOOL_CALL.startswith(text) and not final:
            return False
        between_texts = self._has_content and text and not text.startswith(TOOL_CALL)
        self._label(Kind.CONTENT, len(self._held) - len(text), shown=bool(between_texts))
        self._behind_markup = False
        return True

    def _label_content(self, size: int) -> None:
        self._has_content |= size > 0
        self._label(Kind.CONTENT, size)

    def _call(self, *, final: bool) -> bool:
        """Read the call at the beginning of the held text, up to the end that is there."""
        reader = self._reader
        try:
            while self._read < len(self._held) and not reader.finished:
                reader.feed(self._held[self._read])
                self._read += 1
        except ValueError:
            self._give_up()
            return True
        if reader.finished or (self._eager and reader.name):
            self._report()
            self._label(Kind.CALL, self._read)
            self._read = 0
        if reader.finished:
            self._index += 1
            self._stage = _Stage.BEHIND_CALL
            self.finished = self._only_one
            return True
        if final:
            self._give_up()
        return final

    def _behind_call(self, *, final: bool) -> bool:
        text = self._held.lstrip()
        if text.startswith(TOOL_CALL_END):
            self._label(Kind.CALL, len(self._held) - len(text) + len(TOOL_CALL_END), shown=False)
        elif TOOL_CALL_END.startswith(text):
            if final:
                self._label(Kind.CALL, len(self._held), shown=False)
            return False
        self._stage, self._behind_markup = _Stage.TEXT, True
        return True

    def _report(self) -> None:
        """Report what the reader has found since the last report."""
        arguments = self._reader.arguments or (["{}"] if self._reader.finished else [])
        if self._reported is None:
            self.called = True
            self._reported = 0
            self._parts.append(CallPart(self._index, f"call_{uuid.uuid4().hex[:24]}", self._reader.name, ""))
        if len(arguments) > self._reported:
            self._parts.append(CallPart(self._index, None, None, "".join(arguments[self._reported :])))
            self._reported = len(arguments)

    def _give_up(self) -> None:
        """This is no call: it is content, except for what has been reported of it."""
        if self._reader.name and self._eager:
            self._report()
        if self._reported is None:
            self._label_content(self._read)
        else:
            self._label(Kind.CALL, self._read)
            self._index += 1
        self._stage = _Stage.TEXT

    def _label(self, kind: Kind, size: int, *, shown: bool = True) -> None:
        if size:
            self._segments.append(Segment(kind, self._held[:size], shown))
            self._held = self._held[size:]
