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

from model.translations import LocalizedText
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
    reason: LocalizedText

    @property
    def text(self) -> LocalizedText:
        return LocalizedText("bad_row", {"line": self.line, "reason": self.reason})

    def __str__(self) -> str:
        return str(self.text)


def read_text(path: Path) -> str:
    """The text of `path`.

    Raises:
        DataError: it is missing, empty, no file, or not UTF-8.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError("data_file_missing", path=path) from error
    except IsADirectoryError as error:
        raise DataError("data_file_is_folder", path=path) from error
    except OSError as error:
        raise DataError("data_unreadable", path=path, reason=error.strerror) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, data, error) from error
    if not text.strip():
        raise DataError("data_empty", path=path)
    return text


def _not_utf8(path: Path, data: bytes, error: UnicodeDecodeError) -> DataError:
    line = data.count(b"\n", 0, error.start) + 1
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), None)
    encoding = encoding or next(filter(lambda name: _decodes(data, name), GUESSES), None)
    place = {"path": path, "line": line, "byte": error.start}
    if encoding is None:
        return DataError("data_not_utf8", **place)
    new = path.with_name(f"{path.stem}.utf8{path.suffix}")
    command = f"iconv -f {encoding} -t utf-8 {path} -o {new}"
    return DataError("data_other_encoding", **place, encoding=encoding, command=command)


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
                yield BadRow(number, _reason(error))


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
            raise _torn(line, _reason(error)) from error
        yield DataRow(line, value)
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            raise _torn(line, LocalizedText("list_breaks_off"))
    if _skip(text, at + 1) < len(text):
        line += text.count("\n", counted, at)
        raise DataError("data_after_list", line=line)


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] and text[at] in SPACE:
        at += 1
    return at


def _torn(line: int, reason: LocalizedText) -> DataError:
    return DataError("data_list_torn", line=line, reason=reason)


def _reason(error: Exception) -> LocalizedText:
    if isinstance(error, json.JSONDecodeError):
        return LocalizedText("not_json_at", {"reason": error.msg, "column": error.colno})
    return LocalizedText("not_json", {"reason": type(error).__name__})
