r"""Tell what a model thinks from what it answers, however its text is cut into pieces.

ERNIE's thinking models write `thought\n</think>\n\n<response>\nanswer\n</response>\n` or `thought\n</think>\nanswer`.
The chat template has opened the block with `<think>\n`, so the text begins inside it, or the model opens it itself.
"""

import enum

from wenxin_runtime.server.openai.segments import Kind, Segment
from wenxin_runtime.tokenizer.stop_strings import possible_start

THINK, THINK_END = "<think>", "</think>"
RESPONSE, RESPONSE_END = "<response>", "</response>"
TAGS = (THINK, THINK_END, RESPONSE, RESPONSE_END)


class Stage(enum.Enum):
    """How far an answer is."""

    OPENING = enum.auto()
    """Nothing has been said: a thought may begin."""
    OPENED = enum.auto()
    """The prompt ends with `<think>`, which the model may repeat."""
    THINKING = enum.auto()
    BETWEEN = enum.auto()
    """Behind the thought, or behind a response: a response may begin."""
    RESPONSE = enum.auto()
    CONTENT = enum.auto()
    """An answer without a wrapper: nothing in it is markup any more."""


def stage_of(prompt: str, *, continued: bool = False) -> Stage:
    """Say where an answer begins.

    Args:
        prompt: Its last characters, enough to hold a tag and some newlines, or all of it if `continued`.
        continued: The model is to go on with an unfinished message.
    """
    text = prompt.rstrip()
    if text.endswith(THINK):
        return Stage.OPENED
    if not continued:
        return Stage.RESPONSE if text.endswith(RESPONSE) else Stage.OPENING
    in_response = text.rfind(RESPONSE) > max(text.rfind(RESPONSE_END), text.rfind(THINK_END))
    return Stage.RESPONSE if in_response else Stage.CONTENT


class ReasoningSplitter:
    """Labels one answer's text as reasoning and content.

    The tags, and the newlines between a tag and the text that it encloses, are markup. Text that may yet become a tag
    is held back. The segments, put together, are the text.
    """

    def __init__(self, stage: Stage = Stage.OPENING) -> None:
        self._stage = stage
        self._held = ""
        self._at_start = stage in (Stage.OPENING, Stage.OPENED)
        self._segments: list[Segment] = []

    def push(self, text: str) -> list[Segment]:
        """Add text; return what can be labelled."""
        self._held += text
        return self._run(final=False)

    def finish(self) -> list[Segment]:
        """The answer has ended: label what was held back."""
        return self._run(final=True)

    def _run(self, *, final: bool) -> list[Segment]:
        while self._held and self._step(final=final):
            pass
        found, self._segments = self._segments, []
        return found

    def _step(self, *, final: bool) -> bool:
        """Label some text; return whether the stage has changed, so that more may be labelled."""
        match self._stage:
            case Stage.OPENING:
                return self._fork(THINK, Kind.REASONING, Stage.THINKING, Stage.BETWEEN, final=final)
            case Stage.OPENED:
                return self._fork(THINK, Kind.REASONING, Stage.THINKING, Stage.THINKING, final=final)
            case Stage.THINKING:
                return self._enclosed(Kind.REASONING, THINK_END, final=final)
            case Stage.BETWEEN:
                return self._fork(RESPONSE, Kind.CONTENT, Stage.RESPONSE, Stage.CONTENT, final=final)
            case Stage.RESPONSE:
                return self._enclosed(Kind.CONTENT, RESPONSE_END, final=final)
            case Stage.CONTENT:
                self._drop_leading_newlines(Kind.CONTENT)
                self._label(Kind.CONTENT, len(self._held))
                return False

    def _fork(self, tag: str, kind: Kind, found: Stage, missing: Stage, *, final: bool) -> bool:
        """Look whether `tag` comes next, newlines aside; they stay for the stage that follows where it does not."""
        text = self._held.lstrip("\n")
        if text.startswith(tag):
            self._label(kind, len(self._held) - len(text) + len(tag), shown=False)
            self._enter(found)
        elif tag.startswith(text) and not final:
            return False
        else:
            self._enter(missing)
        return True

    def _enclosed(self, kind: Kind, end: str, *, final: bool) -> bool:
        """Label the text up to `end`."""
        self._drop_leading_newlines(kind)
        at = self._held.find(end)
        if at >= 0:
            self._label(kind, len(self._held[:at].rstrip("\n")))
            self._label(kind, self._held.find(end) + len(end), shown=False)
            self._enter(Stage.BETWEEN)
            return True
        held = self._held
        keep = 0 if final else possible_start(held, (end,))
        self._label(kind, len(held) if final else len(held[: len(held) - keep].rstrip("\n")))
        return False

    def _drop_leading_newlines(self, kind: Kind) -> None:
        if self._at_start:
            text = self._held.lstrip("\n")
            self._label(kind, len(self._held) - len(text), shown=False)
            self._at_start = not text

    def _enter(self, stage: Stage) -> None:
        self._stage, self._at_start = stage, True

    def _label(self, kind: Kind, size: int, *, shown: bool = True) -> None:
        if size:
            self._segments.append(Segment(kind, self._held[:size], shown))
            self._held = self._held[size:]
