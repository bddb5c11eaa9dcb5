"""What stands on an input line: a row to answer, or why it cannot be answered.

A line is a JSON object with `prompt`, with `instruction` (and `input`), or with `messages` that end
with the user's; or a JSON string; or plain text, taken as a question.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, get_args

from model.text.prompt import PromptTemplate
from model.types import Delta, Message, Role

ROLES: tuple[Role, ...] = get_args(Role)
KINDS = '"prompt", "instruction" or "messages"'


class _BadLineError(Exception):
    """Why a line cannot be answered, as one sentence."""


@dataclass(frozen=True)
class BatchRow:
    """Line `number` (from 1): its own fields, and the messages to answer or its `problem`.

    How the input `given` with an instruction is written is the template's business.
    """

    number: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    given: str = ""
    problem: str = ""

    def written(self, template: PromptTemplate) -> tuple[Message, ...]:
        """The messages, with what is given."""
        if not self.given:
            return self.messages
        system, question = template.with_input(self.messages[-1].content, self.given)
        intro = (Message("system", system),) if system else ()
        return (*intro, Message("user", question))


def read_rows(source: BinaryIO) -> Generator[BatchRow, None, None]:
    """The rows of a file, one by one; empty lines are counted and skipped.

    The file is closed by whoever reads the rows: another thread would wait for a pipe to do so.
    """
    with source:
        for number, line in enumerate(source, 1):
            text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if text.strip():
                yield _read_row(number, text.strip())


def _read_row(number: int, line: bytes) -> BatchRow:
    try:
        fields = _fields(line)
        return BatchRow(number, fields, _messages(fields), _given(fields))
    except _BadLineError as error:
        return BatchRow(number, problem=str(error))


def _fields(line: bytes) -> dict[str, Any]:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise _BadLineError("The line is not UTF-8 text.") from error
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise _BadLineError("The line's JSON is nested too deeply.") from error
    except ValueError as error:
        # A torn object is no question, though it is plain text as well.
        if text[0] == "{" and text[1:].lstrip()[:1] in ('"', "", "}"):
            raise _BadLineError(f"The line is not valid JSON: {error}.") from error
        return {"prompt": text}
    if isinstance(value, str):
        value = {"prompt": value}
    if not isinstance(value, dict):
        raise _BadLineError("The line's JSON is neither an object nor a string.")
    _refuse_half_characters(value)
    return value


def _refuse_half_characters(fields: dict[str, Any]) -> None:
    try:
        json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _BadLineError("The line holds half a character (a lone surrogate).") from error


def _messages(fields: dict[str, Any]) -> tuple[Message, ...]:
    if "messages" in fields:
        return _chat(fields["messages"])
    if "prompt" in fields:
        return (Message("user", _text(fields, "prompt")),)
    if "instruction" in fields:
        return (Message("user", _text(fields, "instruction")),)
    raise _BadLineError(f"The row has none of {KINDS}.")


def _given(fields: dict[str, Any]) -> str:
    asked = next((name for name in ("messages", "prompt", "instruction") if name in fields), "")
    return _text(fields, "input") if asked == "instruction" and fields.get("input") else ""


def _text(fields: dict[str, Any], name: str) -> str:
    text = fields[name]
    if not isinstance(text, str) or not text.strip():
        raise _BadLineError(f'"{name}" is not text, or empty.')
    return text


def _chat(rows: Any) -> tuple[Message, ...]:
    if not isinstance(rows, list) or not rows:
        raise _BadLineError('"messages" is not a list of messages, or empty.')
    chat = tuple(_message(row) for row in rows)
    if chat[-1].role != "user":
        raise _BadLineError("The messages do not end with the user's.")
    return chat


def _message(row: Any) -> Message:
    told = row if isinstance(row, dict) else {}
    role, content = told.get("role"), told.get("content")
    if role not in ROLES or not isinstance(content, str):
        raise _BadLineError(
            f'A message is not {{"role": …, "content": …}} with text and a role of {_listed()}.'
        )
    return Message(role, content)


def _listed() -> str:
    return ", ".join(ROLES)


# Rows that bring fields of these names get new values: so replies can be asked for once more.
OURS = ("reply", "finish_reason", "prompt_tokens", "completion_tokens", "adapter")


def reply_record(row: BatchRow, text: str, last: Delta, adapter: str | None) -> dict[str, Any]:
    reason, stats = last.finish_reason, last.stats
    counts = (stats.prompt_tokens, stats.completion_tokens) if stats else (0, 0)
    told = (text, reason.value if reason else None, *counts, adapter)
    return {**_own(row.fields), **dict(zip(OURS, told, strict=True))}


def failed(row: BatchRow, sentence: str) -> dict[str, Any]:
    return {"line": row.number, "error": sentence}


def is_failure(result: Mapping[str, Any]) -> bool:
    return set(result) == {"line", "error"}


def matches_row(result: Any, row: BatchRow, adapter: str | None) -> bool:
    """Whether `result`, read from a file, is what `adapter` has to say about `row`."""
    if not isinstance(result, dict):
        return False
    if is_failure(result):
        return bool(result["line"] == row.number)
    if not set(OURS) <= set(result) or result["adapter"] != adapter:
        return False
    # Compared as they are written: NaN is not equal to itself.
    return json.dumps(_own(result)) == json.dumps(_own(row.fields))


def _own(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in OURS}
