"""Parses the text of a data file into rows, each with its place.

The text is JSON Lines, a list, or other JSON: objects one after the other, one row, an object with
a list of rows, or columns. `formats` reads the rows themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
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


@dataclass(frozen=True, order=True)
class Place:
    """Where a row is: the line on which it begins; with `row`, its number in the file instead."""

    line: int
    row: int = 0

    @property
    def text(self) -> LocalizedText:
        if self.row:
            return LocalizedText("row_place", {"number": self.row})
        return LocalizedText("line_place", {"number": self.line})


@dataclass(frozen=True)
class DataRow:
    """A JSON value, and its place."""

    place: Place
    value: Any


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be learned from, with the reason."""

    place: Place
    reason: LocalizedText

    @property
    def text(self) -> LocalizedText:
        return LocalizedText("bad_row", {"place": self.place.text, "reason": self.reason})

    def __str__(self) -> str:
        return str(self.text)


def read_bytes(path: Path) -> bytes:
    """Reads a data file.

    Raises:
        DataError: it is missing, or not a file.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        remedy = LocalizedText("fix_data_path")
        raise DataError("input_missing", path=path, remedy=remedy) from error
    except IsADirectoryError as error:
        raise DataError("data_file_is_folder", path=path) from error
    except OSError as error:
        raise DataError("data_unreadable", path=path, reason=error.strerror) from error


def decode_text(path: Path, data: bytes) -> str:
    """The text of a data file.

    Raises:
        DataError: it is empty, or not in UTF-8.
    """
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
        DataError: a list is incomplete or broken, so the rows after that place cannot be found; or
            an object holds no rows.
    """
    begin = _skip_space(text, 0)
    if text[begin] == "[":
        yield from _number(_parse_values(text, begin + 1, "]"))
    elif text[begin] == "{" and not _is_json(text[begin:].partition("\n")[0]):
        yield from _parse_objects(text, begin)
    else:
        rows = list(_parse_lines(text))
        yield from _unfold(rows[0]) if len(rows) == 1 else rows


def _parse_lines(text: str) -> Iterator[DataRow | BadRow]:
    # Not splitlines: a JSON string may contain U+2028 and other line separators.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield DataRow(Place(number), json.loads(line))
            except (ValueError, RecursionError) as error:
                yield BadRow(Place(number), _reason(error))


def _parse_objects(text: str, begin: int) -> Iterator[DataRow | BadRow]:
    """Parses objects on several lines, one after the other."""
    rows = list(_parse_values(text, begin, ""))
    yield from _unfold(rows[0]) if len(rows) == 1 else rows


def _parse_values(text: str, begin: int, end: str) -> Iterator[DataRow]:
    """Parses values one by one, to know the line of each.

    Args:
        text: has values, separated by commas if they are in a list.
        begin: where the first one is.
        end: what follows the last one; empty: the end of the text.
    """
    decoder = json.JSONDecoder()
    position = _skip_space(text, begin)
    line, counted = 1, 0
    while text[position : position + 1] != end:
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise _broken_list_error(line, _reason(error)) from error
        yield DataRow(Place(line), value)
        position = _skip_space(text, position)
        if end and text[position : position + 1] == ",":
            position = _skip_space(text, position + 1)
        elif end and text[position : position + 1] != end:
            raise _broken_list_error(line, LocalizedText("list_breaks_off"))
    if end and _skip_space(text, position + 1) < len(text):
        line += text.count("\n", counted, position)
        raise DataError("data_after_list", line=line)


def _number(rows: Iterable[DataRow]) -> Iterator[DataRow]:
    """The rows of a list, with their numbers if the first two are on one line."""
    rows = iter(rows)
    first = list(islice(rows, 2))
    is_numbered = len(first) == 2 and first[0].place == first[1].place
    for number, row in enumerate(chain(first, rows), 1):
        yield DataRow(Place(row.place.line, number), row.value) if is_numbered else row


def _unfold(row: DataRow | BadRow) -> Iterator[DataRow | BadRow]:
    """The rows that a file's only object holds: a list of them, or columns; else the row itself.

    Raises:
        DataError: the object has several lists of rows.
    """
    value = row.value if isinstance(row, DataRow) else None
    if not isinstance(value, dict) or _is_row(value):
        yield row
        return
    columns = [list(v.values()) if isinstance(v, dict) else v for v in value.values()]
    lists = {key: v for key, v in value.items() if _is_list_of(v, dict)}
    if _are_columns(columns):
        rows = [dict(zip(value, values, strict=True)) for values in zip(*columns, strict=True)]
    elif len(lists) == 1 or "train" in lists:
        rows = lists.get("train") or next(iter(lists.values()))
    elif lists:
        raise DataError("data_several_lists", keys=", ".join(map(repr, lists)))
    else:
        yield row
        return
    for number, each in enumerate(rows, 1):
        yield DataRow(Place(row.place.line, number), each)


def _is_row(value: Mapping[str, Any]) -> bool:
    """Whether this is a row: it has a chat, or one text as its question."""
    if any(isinstance(value.get(key), str) for key in ("instruction", "prompt")):
        return True
    return any(_is_list_of(v, dict) and _is_turns(v) for v in value.values())


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, kind) for v in value)


def _is_turns(values: list[Mapping[str, Any]]) -> bool:
    """Whether these objects are the turns of one chat."""
    return any("role" in value or "from" in value for value in values)


def _are_columns(columns: list[Any]) -> bool:
    """Whether these are lists of texts, or of chats, of one length."""
    if not columns or not all(isinstance(column, list) and column for column in columns):
        return False
    if len({len(column) for column in columns}) != 1:
        return False
    if any(_is_list_of(column, dict) for column in columns):
        return False
    return any(_is_list_of(column, str) or _is_list_of(column, list) for column in columns)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


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
