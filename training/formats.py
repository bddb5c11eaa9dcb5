"""What a row of training data says, as messages, whichever of the usual forms it has.

Known are alpaca's (`instruction`, `input`, `output`, and LLaMA-Factory's `system` and `history`),
OpenAI's (`messages`), ShareGPT's (`conversations`), and `prompt` with `completion` or `response`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from model.text.prompt import PromptTemplate
from model.types import LinlyError, Message, Role

ROLES: Mapping[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "model": "assistant",
}  # fmt: skip
KEYS = "instruction and output, messages, or conversations"


class RowError(LinlyError):
    """A row cannot be learned from: its text is the reason."""


def messages_of(value: Any, template: PromptTemplate) -> tuple[Message, ...]:
    """The chat in a row; it ends with what the assistant says.

    `template` decides how an instruction's input is written.

    Raises:
        RowError: it is no chat, in a few words.
    """
    if not isinstance(value, dict):
        raise RowError("row_not_an_object", kind=_kind(value), keys=KEYS)
    for keys, read in _forms(template):
        if all(key in value for key in keys):
            return _complete(read(value))
    found = ", ".join(map(str, value)) or "nothing"
    raise RowError("row_without_keys", found=found[:80], keys=KEYS)


def _forms(template: PromptTemplate) -> Sequence[tuple[tuple[str, ...], Callable[..., Any]]]:
    return (
        (("messages",), lambda row: _turns(row, "messages")),
        (("conversations",), lambda row: _turns(row, "conversations")),
        (("conversation",), lambda row: _turns(row, "conversation")),
        (("instruction", "output"), lambda row: _alpaca(row, template)),
        (("prompt", "completion"), lambda row: _pair(row, "prompt", "completion")),
        (("prompt", "response"), lambda row: _pair(row, "prompt", "response")),
    )


def _alpaca(row: Mapping[str, Any], template: PromptTemplate) -> list[Message]:
    given = _text(row.get("input") or "", "input")
    question = _text(row["instruction"], "instruction")
    messages = _system(row)
    if given.strip():
        intro, question = template.with_input(question, given)
        messages = messages or ([Message("system", intro)] if intro else [])
    history = row.get("history") or []
    for turn in history if isinstance(history, list) else [history]:
        if not isinstance(turn, list) or len(turn) != 2:
            raise RowError("history_not_pairs")
        messages += [
            Message("user", _text(turn[0], "history")),
            Message("assistant", _text(turn[1], "history")),
        ]
    return [
        *messages,
        Message("user", question),
        Message("assistant", _text(row["output"], "output")),
    ]


def _pair(row: Mapping[str, Any], question: str, answer: str) -> list[Message]:
    said = (Message("user", _text(row[question], question)),
            Message("assistant", _text(row[answer], answer)))  # fmt: skip
    return [*_system(row), *said]


def _system(row: Mapping[str, Any]) -> list[Message]:
    told = _text(row.get("system") or "", "system")
    return [Message("system", told)] if told.strip() else []


def _turns(row: Mapping[str, Any], key: str) -> list[Message]:
    turns = row[key]
    if not isinstance(turns, list):
        raise RowError("row_field_not_a_list", place=key, kind=_kind(turns))
    said = [_turn(turn, f"{key}[{number}]") for number, turn in enumerate(turns)]
    return said if said and said[0].role == "system" else [*_system(row), *said]


def _turn(turn: Any, place: str) -> Message:
    if not isinstance(turn, dict):
        raise RowError("row_field_not_an_object", place=place, kind=_kind(turn))
    name = turn.get("role", turn.get("from"))
    if not isinstance(name, str) or name.lower() not in ROLES:
        raise RowError("row_role_unknown", place=place, role=name)
    if turn.get("weight") == 0:
        raise RowError("row_weight_zero", place=place)
    return Message(ROLES[name.lower()], _text(turn.get("content", turn.get("value")), place))


def _text(value: Any, place: str) -> str:
    """A text, or OpenAI's list of parts if all of them are text."""
    if isinstance(value, list) and all(
        isinstance(p, dict) and p.get("type") == "text" for p in value
    ):
        value = "\n".join(str(part.get("text", "")) for part in value)
    if not isinstance(value, str):
        raise RowError("row_field_not_text", place=place, kind=_kind(value))
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError("row_half_character", place=place) from None
    return value


def _complete(messages: list[Message]) -> tuple[Message, ...]:
    """Up to the last reply: there is nothing to learn behind it."""
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
    names = {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "true or false",
        type(None): "null",
    }
    return names.get(type(value), "a number")
