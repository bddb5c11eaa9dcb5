"""Reads JSON in small steps.

`json.loads` keeps the interpreter's lock until it is done: with a file of 5 MB, every other thread
and all streaming replies stand still for a tenth of a second. Here each call into C sees a window
of the text, and the containers that are larger than that are walked in Python.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from json.decoder import JSONDecoder, scanstring  # type: ignore[attr-defined]
from typing import Any, Final, NoReturn

WINDOW = 32_768  # characters that are decoded at once; longer than any word or escape
MAX_DEPTH = 32  # of containers that are larger than a window
MAX_STEPS = 200_000  # values of such containers: an export has one for each message
MAX_ITEMS = 20_000  # of one of them: a chat has 10,000 messages at the most
TOO_MANY = "it has too many parts"
SPACE = re.compile(r"[ \t\n\r]*")


class JsonError(ValueError):
    """The text cannot be read; the message says why, for people."""

    def __init__(self, message: str = "it is no JSON") -> None:
        super().__init__(message)


class _TooLarge:
    """In place of a value that no window holds."""


TOO_LARGE: Final = _TooLarge()


class JsonReader:
    """A position in a text. Every method begins there, and goes on behind what it has read.

    Raises (all methods):
        JsonError: it is no JSON, or nested too deeply.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = self._steps = 0
        self._decoder = JSONDecoder(parse_constant=_refuse_constant)
        self._window, self._window_start = "", 0

    def peek(self) -> str:
        """The character with which the next value begins, or "" at the end."""
        while True:
            end = self._at + WINDOW
            self._at = SPACE.match(self._text, self._at, end).end()  # type: ignore[union-attr]
            if self._at < end:
                break
        return self._text[self._at : self._at + 1]

    def finish(self) -> None:
        """Checks that nothing but white space is left."""
        if self.peek():
            raise JsonError

    def items(self) -> Iterator[None]:
        """Stops at each item of a list, which the caller reads."""
        self._enter("[")
        if not self._ends("]"):
            for _ in range(MAX_ITEMS):
                yield
                if not self._goes_on("]"):
                    break
            else:
                raise JsonError(TOO_MANY)
        self._depth -= 1

    def members(self) -> Iterator[str]:
        """Stops at each value of an object, which the caller reads, and gives its key."""
        self._enter("{")
        if not self._ends("}"):
            for _ in range(MAX_ITEMS):
                if self.peek() != '"':
                    raise JsonError
                key = self.value()
                self._expect(":")
                yield str(key)
                if not self._goes_on("}"):
                    break
            else:
                raise JsonError(TOO_MANY)
        self._depth -= 1

    def value(self) -> Any:
        """The next value as a whole, as `json.loads` gives it."""
        start = self.peek()
        found = self._from_window()
        if found is not TOO_LARGE:
            return found
        if start == "[":
            return [self.value() for _ in self.items()]
        if start == "{":
            return {key: self.value() for key in self.members()}
        if start == '"':
            return self._long_string()
        return self._number()

    def skip(self) -> None:
        """Reads the next value without keeping it."""
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
        """The next value, if what is left of the window holds it, or else the next window."""
        offset = self._at - self._window_start
        if 0 < offset < len(self._window):
            found = self._decoded(offset)
            if found is not TOO_LARGE:
                return found
        self._window = self._text[self._at : self._at + WINDOW]
        self._window_start = self._at
        return self._decoded(0)

    def _decoded(self, offset: int) -> Any:
        try:
            value, end = self._decoder.raw_decode(self._window, offset)
        except RecursionError as error:
            raise JsonError("it is nested too deeply") from error
        except json.JSONDecodeError:
            return TOO_LARGE  # it is cut off, or wrong: whoever reads it in smaller parts finds out
        except ValueError as error:
            raise JsonError from error
        if end == len(self._window) and self._window_start + end < len(self._text):
            return TOO_LARGE  # a number may go on behind the window
        self._at = self._window_start + end
        return value

    def _number(self) -> Any:
        """A value that is neither a container nor a string: so short that it need not be cut."""
        try:
            value, end = self._decoder.raw_decode(self._text[self._at : self._at + WINDOW])
        except ValueError as error:
            raise JsonError from error
        if end == WINDOW:
            raise JsonError
        self._at += end
        return value

    def _long_string(self) -> str:
        parts = []
        at = self._at + 1
        while at < len(self._text):
            piece = _without_half_escape(self._text[at : at + WINDOW])
            if not piece:  # the text ends within an escape
                break
            try:
                part, end = scanstring(f'{piece}"', 0, True)
            except json.JSONDecodeError as error:
                raise JsonError from error
            parts.append(part)
            at += end
            if end <= len(piece):  # the quotation mark is the text's own
                self._at = at
                return "".join(parts)
            at -= 1
        raise JsonError

    def _enter(self, bracket: str) -> None:
        self._expect(bracket)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise JsonError("it is nested too deeply")

    def _ends(self, bracket: str) -> bool:
        """Whether the container is empty; its bracket is read then."""
        if self.peek() != bracket:
            return False
        self._at += 1
        return True

    def _goes_on(self, bracket: str) -> bool:
        """Whether a comma stands here, and not the container's end."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise JsonError(TOO_MANY)
        found = self.peek()
        if found not in (",", bracket) or not found:
            raise JsonError
        self._at += 1
        return found == ","

    def _expect(self, sign: str) -> None:
        if self.peek() != sign:
            raise JsonError
        self._at += 1


def _without_half_escape(piece: str) -> str:
    """The piece without an escape at its end that goes on in the next one."""
    last = piece.rfind("\\", max(0, len(piece) - 6))
    if last < 0:
        return piece
    run = len(piece[: last + 1]) - len(piece[: last + 1].rstrip("\\"))
    if run % 2 == 0:  # the last backslash is itself escaped
        return piece
    length = 6 if piece[last + 1 : last + 2] == "u" else 2
    return piece if last + length <= len(piece) else piece[:last]


def _refuse_constant(name: str) -> NoReturn:
    raise JsonError(f"there is a number {name} in it")
