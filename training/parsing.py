"""Parses a file of training data into rows, each with the line on which it begins.

The file is JSON (one list of objects) if it begins with "[", else JSON Lines. `formats` reads the
rows themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import LinlyError
from model.translations import LocalizedText

SPACE = " \t\r\n"
# Byte order marks, and other encodings that data often has, by iconv's names.
BYTE_ORDER_MARKS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
LIKELY_ENCODINGS = ("gb18030", "big5", "shift_jis")


class DataError(LinlyError):
    """The training data cannot be used."""

    code = "bad_data"


@dataclass(frozen=True)
class DataRow:
    """A JSON value that begins on line `line`."""

    line: int
    value: Any


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be learned from, with the reason."""

    line: int
    reason: LocalizedText

    @property
    def text(self) -> LocalizedText:
        return LocalizedText("bad_row", {"line": self.line, "reason": self.reason})

    def __str__(self) -> str:
        return str(self.text)


def read_text(path: Path) -> str:
    """Reads the text of `path`.

    Raises:
        DataError: it is missing, empty, not a file, or not in UTF-8.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        remedy = LocalizedText("fix_data_path")
        raise DataError("input_missing", path=path, remedy=remedy) from error
    except IsADirectoryError as error:
        raise DataError("data_file_is_folder", path=path) from error
    except OSError as error:
        raise DataError("data_unreadable", path=path, reason=error.strerror) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _encoding_error(path, data, error) from error
    if not text.strip():
        raise DataError("data_empty", path=path)
    return text


def _encoding_error(path: Path, data: bytes, error: UnicodeDecodeError) -> DataError:
    line = data.count(b"\n", 0, error.start) + 1
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), None)
    encoding = encoding or next(filter(lambda name: _decodes(data, name), LIKELY_ENCODINGS), None)
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
    """Parses the rows of a file's text.

    Raises (from the iterator):
        DataError: a list is incomplete or broken, so the rows after that place cannot be found.
    """
    yield from _parse_list(text) if text.lstrip().startswith("[") else _parse_lines(text)


def _parse_lines(text: str) -> Iterator[DataRow | BadRow]:
    # Not splitlines: a JSON string may contain U+2028 and other line separators.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield DataRow(number, json.loads(line))
            except (ValueError, RecursionError) as error:
                yield BadRow(number, _reason(error))


def _parse_list(text: str) -> Iterator[DataRow]:
    """Parses the elements one by one, to know the line of each."""
    decoder = json.JSONDecoder()
    position = _skip_space(text, text.index("[") + 1)
    line, counted = 1, 0
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise _broken_list_error(line, _reason(error)) from error
        yield DataRow(line, value)
        position = _skip_space(text, position)
        if text[position : position + 1] == ",":
            position = _skip_space(text, position + 1)
        elif text[position : position + 1] != "]":
            raise _broken_list_error(line, LocalizedText("list_breaks_off"))
    if _skip_space(text, position + 1) < len(text):
        line += text.count("\n", counted, position)
        raise DataError("data_after_list", line=line)


def _skip_space(text: str, position: int) -> int:
    while text[position : position + 1] and text[position] in SPACE:
        position += 1
    return position


def _broken_list_error(line: int, reason: LocalizedText) -> DataError:
    return DataError("data_list_torn", line=line, reason=reason)


def _reason(error: Exception) -> LocalizedText:
    if isinstance(error, json.JSONDecodeError):
        return LocalizedText("not_json_at", {"reason": error.msg, "column": error.colno})
    return LocalizedText("not_json", {"reason": type(error).__name__})
