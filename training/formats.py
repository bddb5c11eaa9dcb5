"""Reads a row of training data as messages, in any of the usual formats.

These are Alpaca's (`instruction`, `input`, `output`, and LLaMA-Factory's `system` and `history`),
OpenAI's (`messages`), ShareGPT's (`conversations`), and `prompt` with `completion` or `response`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from model.errors import LinlyError
from model.text.chat_rows import (
    content_text,
    find_role,
    has_lone_surrogate,
    instruction_messages,
)
from model.text.prompt_template import PromptTemplate
from model.types import Message

KEYS = "instruction and output, messages, or conversations"


class RowError(LinlyError):
    """A row cannot be learned from: its text is the reason."""


def read_messages(value: Any, template: PromptTemplate) -> tuple[Message, ...]:
    """The chat in a row, up to its last reply.

    `template` decides how an instruction's input is written.

    Raises:
        RowError: it is not a chat.
    """
    if not isinstance(value, dict):
        raise RowError("row_not_an_object", kind=_kind(value), keys=KEYS)
    for keys, read in _formats(template):
        if all(key in value for key in keys):
            return _check_chat(read(value))
    found = ", ".join(map(str, value)) or "nothing"
    raise RowError("row_without_keys", found=found[:80], keys=KEYS)


def _formats(template: PromptTemplate) -> Sequence[tuple[tuple[str, ...], Callable[..., Any]]]:
    """Each format's reader, by the keys that a row of the format has."""
    return (
        (("messages",), lambda row: _turns(row, "messages")),
        (("conversations",), lambda row: _turns(row, "conversations")),
        (("conversation",), lambda row: _turns(row, "conversation")),
        (("instruction", "output"), lambda row: _alpaca(row, template)),
        (("prompt", "completion"), lambda row: _single_turn(row, "prompt", "completion")),
        (("prompt", "response"), lambda row: _single_turn(row, "prompt", "response")),
    )


def _alpaca(row: Mapping[str, Any], template: PromptTemplate) -> list[Message]:
    input_text = _text(row.get("input") or "", "input")
    instruction = _text(row["instruction"], "instruction")
    *opening, question = instruction_messages(instruction, input_text, template)
    return [
        *(_system(row) or opening),
        *_history(row.get("history") or []),
        question,
        Message("assistant", _text(row["output"], "output")),
    ]


def _history(turns: Any) -> list[Message]:
    """Earlier turns: a list of [question, reply]."""
    messages = []
    for turn in turns if isinstance(turns, list) else [turns]:
        if not isinstance(turn, list) or len(turn) != 2:
            raise RowError("history_not_pairs")
        question, reply = (_text(text, "history") for text in turn)
        messages += [Message("user", question), Message("assistant", reply)]
    return messages


def _single_turn(row: Mapping[str, Any], question: str, reply: str) -> list[Message]:
    turn = [
        Message("user", _text(row[question], question)),
        Message("assistant", _text(row[reply], reply)),
    ]
    return [*_system(row), *turn]


def _system(row: Mapping[str, Any]) -> list[Message]:
    prompt = _text(row.get("system") or "", "system")
    return [Message("system", prompt)] if prompt.strip() else []


def _turns(row: Mapping[str, Any], key: str) -> list[Message]:
    turns = row[key]
    if not isinstance(turns, list):
        raise RowError("row_field_not_a_list", place=key, kind=_kind(turns))
    messages = [_turn(turn, f"{key}[{number}]") for number, turn in enumerate(turns)]
    has_system = messages and messages[0].role == "system"
    return messages if has_system else [*_system(row), *messages]


def _turn(turn: Any, place: str) -> Message:
    if not isinstance(turn, dict):
        raise RowError("row_field_not_an_object", place=place, kind=_kind(turn))
    name = turn.get("role", turn.get("from"))
    role = find_role(name)
    if role is None:
        raise RowError("row_role_unknown", place=place, role=name)
    if turn.get("weight") == 0:
        raise RowError("row_weight_zero", place=place)
    return Message(role, _text(turn.get("content", turn.get("value")), place))


def _text(value: Any, place: str) -> str:
    text = content_text(value)
    if text is None:
        raise RowError("row_field_not_text", place=place, kind=_kind(value))
    if has_lone_surrogate(text):
        raise RowError("row_half_character", place=place)
    return text


def _check_chat(messages: list[Message]) -> tuple[Message, ...]:
    """The messages up to the last reply: nothing can be learned from those after it."""
    while messages and messages[-1].role != "assistant":
        messages = messages[:-1]
    if not messages:
        raise RowError("row_without_reply")
    if not any(m.content.strip() for m in messages if m.role == "assistant"):
        raise RowError("row_reply_empty")
    if any(message.role == "system" for message in messages[1:]):
        raise RowError("row_system_not_first")
    return tuple(messages)


def _kind(value: Any) -> str:
    kinds = {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "true or false",
        type(None): "null",
    }
    return kinds.get(type(value), "a number")
