"""Rows of a batch: reads them from lines or a JSON list, and makes the records of output lines.

A row is a JSON object with `prompt`, with `instruction` (and `input`), or with `messages` that end
with the user's; or a JSON string; or, as a line, plain text, which is a question. An output line
has the row's own fields with its reply, or the error.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, BinaryIO, get_args

from model.text.chat_rows import has_lone_surrogate, instruction_messages
from model.text.prompt_template import PromptTemplate
from model.types import Delta, Message, Role

ROLES: tuple[Role, ...] = get_args(Role)
# The first line of a list of objects or strings, which may be "[" alone. Other text in brackets is
# a question, such as "[INST] …" and "[1, 2]: what is the sum?".
LIST_START = re.compile(rb"\[\s*(\{.*|\".*[\],]|\]?)", re.DOTALL)
INPUT_FIELDS = ("messages", "prompt", "instruction")  # the first one that a row has counts
# A row's own fields of these names are replaced: so a file of replies can be answered again.
REPLY_FIELDS = ("reply", "finish_reason", "prompt_tokens", "completion_tokens", "adapter")


class _BadLineError(Exception):
    """A line cannot be answered; the message is a sentence for the output."""


@dataclass(frozen=True)
class BatchRow:
    """Line or element `number` (from 1): its fields, and the messages to answer or its `problem`.

    `input_text` belongs to an instruction; the prompt template decides how it is written.
    """

    number: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    input_text: str = ""
    problem: str = ""

    def to_messages(self, template: PromptTemplate) -> tuple[Message, ...]:
        """The messages with the input."""
        if not self.input_text:
            return self.messages
        return instruction_messages(self.messages[-1].content, self.input_text, template)


def read_rows(source: BinaryIO) -> Generator[BatchRow, None, None]:
    """Yields the rows of a file; empty lines are counted and skipped.

    The generator closes the file, in the thread that reads: closing a pipe from another thread
    would wait for it.
    """
    with source:
        lines = _texts(source)
        first = next(lines, None)
        if first is None:
            return
        number, text = first
        if LIST_START.fullmatch(text):
            yield from _read_list(number, b"\n".join([text, *(more for _, more in lines)]))
            return
        for number, text in chain([first], lines):
            yield _read_row(number, partial(_parse, text))


def _texts(source: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, with their numbers."""
    for number, line in enumerate(source, 1):
        text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if text.strip():
            yield number, text.strip()


def _read_list(number: int, text: bytes) -> Generator[BatchRow, None, None]:
    """The rows of a JSON list that begins on line `number`."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        yield BatchRow(number, problem=f"The JSON list cannot be read: {error}.")
        return
    for index, value in enumerate(values, 1):
        yield _read_row(index, partial(_fields, value))


def _read_row(number: int, read_fields: Callable[[], dict[str, Any]]) -> BatchRow:
    try:
        fields = read_fields()
        return BatchRow(number, fields, _messages(fields), _input_text(fields))
    except _BadLineError as error:
        return BatchRow(number, problem=str(error))


def _parse(line: bytes) -> dict[str, Any]:
    """The fields of a line; text that is not JSON is a prompt."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise _BadLineError("The line is not UTF-8 text.") from error
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise _BadLineError("The line's JSON is nested too deeply.") from error
    except ValueError as error:
        # An incomplete JSON object is not meant as a question.
        if text[0] == "{" and text[1:].lstrip()[:1] in ('"', "", "}"):
            raise _BadLineError(f"The line is not valid JSON: {error}.") from error
        return {"prompt": text}
    return _fields(value)


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a row's JSON value; a string is a prompt."""
    if isinstance(value, str):
        value = {"prompt": value}
    if not isinstance(value, dict):
        raise _BadLineError("The JSON is neither an object nor a string.")
    if has_lone_surrogate(json.dumps(value, ensure_ascii=False)):
        raise _BadLineError("The text contains an invalid character (a lone surrogate).")
    return value


def _input_field(fields: Mapping[str, Any]) -> str | None:
    return next((name for name in INPUT_FIELDS if name in fields), None)


def _messages(fields: Mapping[str, Any]) -> tuple[Message, ...]:
    name = _input_field(fields)
    if name is None:
        raise _BadLineError('The row has none of "prompt", "instruction" or "messages".')
    if name == "messages":
        return _chat(fields["messages"])
    return (Message("user", _text(fields, name)),)


def _input_text(fields: Mapping[str, Any]) -> str:
    has_input = _input_field(fields) == "instruction" and fields.get("input")
    return _text(fields, "input") if has_input else ""


def _text(fields: Mapping[str, Any], name: str) -> str:
    text = fields[name]
    if not isinstance(text, str) or not text.strip():
        raise _BadLineError(f'"{name}" is not text, or empty.')
    return text


def _chat(rows: Any) -> tuple[Message, ...]:
    if not isinstance(rows, list) or not rows:
        raise _BadLineError('"messages" is not a list of messages, or empty.')
    messages = tuple(_message(row) for row in rows)
    if messages[-1].role != "user":
        raise _BadLineError("The last message is not the user's.")
    return messages


def _message(row: Any) -> Message:
    fields = row if isinstance(row, dict) else {}
    role, content = fields.get("role"), fields.get("content")
    if role not in ROLES or not isinstance(content, str):
        raise _BadLineError(
            'A message is not {"role": …, "content": …} with text and a role of '
            f"{', '.join(ROLES)}."
        )
    return Message(role, content)


def reply_record(row: BatchRow, text: str, last: Delta, adapter: str | None) -> dict[str, Any]:
    """The output line of a row with its reply; `last` is the reply's last Delta."""
    reason, stats = last.finish_reason, last.stats
    counts = (stats.prompt_tokens, stats.completion_tokens) if stats else (0, 0)
    values = (text, reason.value if reason else None, *counts, adapter)
    return {**_own_fields(row.fields), **dict(zip(REPLY_FIELDS, values, strict=True))}


def failure_record(row: BatchRow, sentence: str) -> dict[str, Any]:
    """The output line of a row without a reply."""
    return {"line": row.number, "error": sentence}


def is_failure(record: Mapping[str, Any]) -> bool:
    return set(record) == {"line", "error"}


def matches_row(record: Any, row: BatchRow, adapter: str | None) -> bool:
    """Whether `record`, read from an output file, is a result of `row` with this adapter."""
    if not isinstance(record, dict):
        return False
    if is_failure(record):
        return bool(record["line"] == row.number)
    if not set(REPLY_FIELDS) <= set(record) or record["adapter"] != adapter:
        return False
    # Compared as JSON, because NaN is not equal to itself.
    return json.dumps(_own_fields(record)) == json.dumps(_own_fields(row.fields))


def _own_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in REPLY_FIELDS}
