"""Rows out of a file of training data, each with the line on which it begins.

JSON (one list of objects) and JSON Lines are told apart by their beginning. What a row means is
the business of `formats`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.types import LinlyError

SPACE = " \t\r\n"
# Byte order marks and encodings that data is found in, with the names that iconv knows.
MARKS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
GUESSES = ("gb18030", "big5", "shift_jis")


class DataError(LinlyError):
    """The training data cannot be used."""

    code = "bad_data"


@dataclass(frozen=True)
class DataRow:
    """What stands on line `line`, or begins there."""

    line: int
    value: Any


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be learned from, and why."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


def read_text(path: Path) -> str:
    """The text of `path`.

    Raises:
        DataError: it is missing, empty, no file, or not UTF-8.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}", "Mend the path of --data_path.") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder", "Name the file with the data in it.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, data, error) from error
    if not text.strip():
        raise DataError(f"{path} is empty", "Put one JSON object on each line, or a list of them.")
    return text


def _not_utf8(path: Path, data: bytes, error: UnicodeDecodeError) -> DataError:
    line = data.count(b"\n", 0, error.start) + 1
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), None)
    encoding = encoding or next(filter(lambda name: _decodes(data, name), GUESSES), None)
    message = f"{path} is not UTF-8 (line {line}, byte {error.start})"
    if encoding is None:
        return DataError(message, "Save it as UTF-8 text.")
    new = path.with_name(f"{path.stem}.utf8{path.suffix}")
    command = f"iconv -f {encoding} -t utf-8 {path} -o {new}"
    return DataError(f"{message}; it looks like {encoding}", f"Convert it: {command}")


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def parse_rows(text: str) -> Iterator[DataRow | BadRow]:
    """The rows of a file's text.

    Raises (from the iterator):
        DataError: a list breaks off or is torn, so that nothing behind that place can be told.
    """
    yield from _list_rows(text) if text.lstrip().startswith("[") else _line_rows(text)


def _line_rows(text: str) -> Iterator[DataRow | BadRow]:
    # Not splitlines: U+2028 and the like may stand inside of a JSON string.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield DataRow(number, json.loads(line))
            except (ValueError, RecursionError) as error:
                yield BadRow(number, _said(error))


def _list_rows(text: str) -> Iterator[DataRow]:
    """One element after the other, so that each has its line."""
    decoder = json.JSONDecoder()
    at = _skip(text, text.index("[") + 1)
    line, counted = 1, 0
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise _torn(line, _said(error)) from error
        yield DataRow(line, value)
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            raise _torn(line, "the list breaks off, or a comma is missing, behind this row")
    if _skip(text, at + 1) < len(text):
        line += text.count("\n", counted, at)
        raise DataError(
            f"There is more behind the list that ends on line {line}", "Put all rows into one list."
        )


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] and text[at] in SPACE:
        at += 1
    return at


def _torn(line: int, reason: str) -> DataError:
    return DataError(f"The list is torn in the row that begins on line {line}: {reason}")


def _said(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON ({error.msg}, column {error.colno})"
    return f"no JSON ({type(error).__name__})"
