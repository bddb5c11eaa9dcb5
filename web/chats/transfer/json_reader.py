"""JSON reader that works in small steps.

`json.loads` holds the interpreter's lock until it is done: a file of 5 MB stops every other thread
and all streaming replies for a tenth of a second. Here each call into C gets a window of the text,
and containers that are larger than a window are walked in Python.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from json.decoder import JSONDecoder, scanstring  # type: ignore[attr-defined]
from typing import Any, Final, NoReturn

from model.errors import LinlyError

WINDOW = 32_768  # characters that are decoded at once; longer than any word or escape
MAX_DEPTH = 32  # of containers that are larger than a window
MAX_STEPS = 200_000  # values of such containers: an export has one for each message
MAX_ITEMS = 20_000  # of one of them: a chat has 10,000 messages at the most
TOO_MANY = "file_too_many_parts"
SPACE = re.compile(r"[ \t\n\r]*")


class JsonError(LinlyError, ValueError):
    """The text is not valid JSON; the message is the reason, for users."""

    def __init__(self, text: str = "file_not_json", **facts: object) -> None:
        super().__init__(text, **facts)


class _TooLarge:
    """Stands for a value that is larger than a window."""


TOO_LARGE: Final = _TooLarge()


class JsonReader:
    """Reads a text from a position on. Every method begins there, and moves it forward.

    Raises (all methods):
        JsonError: the text is not valid JSON, or nested too deeply.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._depth = self._steps = 0
        self._decoder = JSONDecoder(parse_constant=_refuse_constant)
        self._window, self._window_start = "", 0

    def peek(self) -> str:
        """Returns the first character of the next value, or "" at the end."""
        while True:
            end = self._position + WINDOW
            self._position = SPACE.match(self._text, self._position, end).end()  # type: ignore[union-attr]
            if self._position < end:
                break
        return self._text[self._position : self._position + 1]

    def items(self) -> Iterator[None]:
        """Yields at each item of a list, which the caller then reads."""
        self._enter("[")
        if not self._is_empty("]"):
            for _ in range(MAX_ITEMS):
                yield
                if not self._read_separator("]"):
                    break
            else:
                raise JsonError(TOO_MANY)
        self._depth -= 1

    def members(self) -> Iterator[str]:
        """Yields each key of an object; the caller then reads its value."""
        self._enter("{")
        if not self._is_empty("}"):
            for _ in range(MAX_ITEMS):
                if self.peek() != '"':
                    raise JsonError
                key = self.value()
                self._expect(":")
                yield str(key)
                if not self._read_separator("}"):
                    break
            else:
                raise JsonError(TOO_MANY)
        self._depth -= 1

    def value(self) -> Any:
        """Returns the next value, as `json.loads` does."""
        start = self.peek()
        value = self._from_window()
        if value is not TOO_LARGE:
            return value
        if start == "[":
            return [self.value() for _ in self.items()]
        if start == "{":
            return {key: self.value() for key in self.members()}
        if start == '"':
            return self._long_string()
        return self._number()

    def skip(self) -> None:
        """Reads the next value without storing it."""
        start = self.peek()
        if self._from_window() is not TOO_LARGE:
            return
        if start == "[":
            for _ in self.items():
                self.skip()
        elif start == "{":
            for _ in self.members():
                self.skip()
        else:
            self.value()

    def _from_window(self) -> Any:
        """Returns the next value, if this window or the next one contains it, or `TOO_LARGE`."""
        offset = self._position - self._window_start
        if 0 < offset < len(self._window):
            value = self._decode(offset)
            if value is not TOO_LARGE:
                return value
        self._window = self._text[self._position : self._position + WINDOW]
        self._window_start = self._position
        return self._decode(0)

    def _decode(self, offset: int) -> Any:
        try:
            value, end = self._decoder.raw_decode(self._window, offset)
        except RecursionError as error:
            raise JsonError("file_nested_too_deeply") from error
        except json.JSONDecodeError:
            return TOO_LARGE  # it is cut off, or invalid: reading its parts shows which
        except ValueError as error:
            raise JsonError from error
        if end == len(self._window) and self._window_start + end < len(self._text):
            return TOO_LARGE  # a number may go on after the window
        self._position = self._window_start + end
        return value

    def _number(self) -> Any:
        """Returns a value that is neither a container nor a string, so it fits a window."""
        try:
            window = self._text[self._position : self._position + WINDOW]
            value, end = self._decoder.raw_decode(window)
        except ValueError as error:
            raise JsonError from error
        if end == WINDOW:
            raise JsonError
        self._position += end
        return value

    def _long_string(self) -> str:
        parts = []
        at = self._position + 1
        while at < len(self._text):
            piece = _without_partial_escape(self._text[at : at + WINDOW])
            if not piece:  # the text ends within an escape
                break
            try:
                part, end = scanstring(f'{piece}"', 0, True)
            except json.JSONDecodeError as error:
                raise JsonError from error
            parts.append(part)
            at += end
            if end <= len(piece):  # the quotation mark is part of the text
                self._position = at
                return "".join(parts)
            at -= 1
        raise JsonError

    def _enter(self, bracket: str) -> None:
        self._expect(bracket)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise JsonError("file_nested_too_deeply")

    def _is_empty(self, bracket: str) -> bool:
        """Whether the container is empty; reads its closing bracket then."""
        if self.peek() != bracket:
            return False
        self._position += 1
        return True

    def _read_separator(self, bracket: str) -> bool:
        """Reads a comma or the closing bracket; returns whether it was a comma."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise JsonError(TOO_MANY)
        separator = self.peek()
        if separator not in (",", bracket) or not separator:
            raise JsonError
        self._position += 1
        return separator == ","

    def _expect(self, character: str) -> None:
        if self.peek() != character:
            raise JsonError
        self._position += 1


def _without_partial_escape(piece: str) -> str:
    """Returns the piece without an escape at its end that continues in the next piece."""
    last = piece.rfind("\\", max(0, len(piece) - 6))
    if last < 0:
        return piece
    backslashes = len(piece[: last + 1]) - len(piece[: last + 1].rstrip("\\"))
    if backslashes % 2 == 0:  # the last backslash is itself escaped
        return piece
    length = 6 if piece[last + 1 : last + 2] == "u" else 2
    return piece if last + length <= len(piece) else piece[:last]


def _refuse_constant(name: str) -> NoReturn:
    raise JsonError("file_with_number", name=name)
