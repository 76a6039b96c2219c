"""Read a JSON object character by character, so that its beginning can be used before its end is written."""

import re
from collections.abc import Callable

_SPACE = " \t\n\r"
_WORD = re.compile(r"true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORD_CHARACTERS = frozenset("truefalsn0123456789+-.E")


class JsonObjectReader:
    """Checks the text of one JSON object against RFC 8259.

    A wrong character is noticed when it comes, except that a number or a word is judged at its end.

    Attributes:
        finished: Whether the object is complete.
        in_key: Whether the string that is being read is a key.
    """

    def __init__(self) -> None:
        self.finished = False
        self.in_key = False
        self._open: list[str] = []
        self._word = ""
        self._hex_digits_left = 0
        self._next: Callable[[str], None] = self._outermost

    @property
    def depth(self) -> int:
        """Objects and arrays that are open."""
        return len(self._open)

    @property
    def in_string(self) -> bool:
        """Whether the next character belongs to a string, its closing quote included."""
        return self._next in (self._string, self._escape, self._hex)

    @property
    def in_word(self) -> bool:
        """Whether the next character may belong to a number or a word."""
        return self._next == self._in_word

    def feed(self, character: str) -> None:
        """Read the next character.

        Raises:
            ValueError: no JSON object goes on like that.
        """
        self._next(character)

    def _outermost(self, character: str) -> None:
        if character == "{":
            self._begin("}", self._first_key)
        elif character not in _SPACE:
            raise ValueError("an object begins with {")

    def _begin(self, closer: str, then: Callable[[str], None]) -> None:
        self._open.append(closer)
        self._next = then

    def _first_key(self, character: str) -> None:
        if character == "}":
            self._end()
        else:
            self._key(character)

    def _key(self, character: str) -> None:
        if character == '"':
            self.in_key = True
            self._next = self._string
        elif character not in _SPACE:
            raise ValueError("expected a key")

    def _colon(self, character: str) -> None:
        if character == ":":
            self._next = self._value
        elif character not in _SPACE:
            raise ValueError("expected a colon")

    def _first_item(self, character: str) -> None:
        if character == "]":
            self._end()
        else:
            self._value(character)

    def _value(self, character: str) -> None:
        if character == '"':
            self._next = self._string
        elif character == "{":
            self._begin("}", self._first_key)
        elif character == "[":
            self._begin("]", self._first_item)
        elif character in "-0123456789tfn":
            self._word = character
            self._next = self._in_word
        elif character not in _SPACE:
            raise ValueError("expected a value")

    def _after_value(self, character: str) -> None:
        if character == self._open[-1]:
            self._end()
        elif character == ",":
            self._next = self._key if self._open[-1] == "}" else self._value
        elif character not in _SPACE:
            raise ValueError("expected a comma")

    def _end(self) -> None:
        self._open.pop()
        self.finished = not self._open
        self._next = self._behind if self.finished else self._after_value

    def _behind(self, character: str) -> None:
        raise ValueError(f"{character!r} behind a complete object")

    def _string(self, character: str) -> None:
        if character == '"':
            self._next = self._colon if self.in_key else self._after_value
            self.in_key = False
        elif character == "\\":
            self._next = self._escape
        elif character < " ":
            raise ValueError("a control character must be escaped")

    def _escape(self, character: str) -> None:
        if character == "u":
            self._hex_digits_left = 4
            self._next = self._hex
        elif character in '"\\/bfnrt':
            self._next = self._string
        else:
            raise ValueError("unknown escape")

    def _hex(self, character: str) -> None:
        if character not in "0123456789abcdefABCDEF":
            raise ValueError("expected a hexadecimal digit")
        self._hex_digits_left -= 1
        if not self._hex_digits_left:
            self._next = self._string

    def _in_word(self, character: str) -> None:
        if character in _WORD_CHARACTERS:
            self._word += character
        elif _WORD.fullmatch(self._word):
            self._after_value(character)
            if self._next == self._in_word:
                self._next = self._after_value
        else:
            raise ValueError(f"{self._word[:20]!r} is no value")
