"""Reads a row of training data as messages, in any of the usual formats.

These are Alpaca's (`instruction`, `input`, `output`, and LLaMA-Factory's `system` and `history`),
OpenAI's (`messages`), ShareGPT's (`conversations`), and `prompt` with `completion` or `response`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from model.errors import LinlyError
from model.text.chat_rows import (
    REASONING_KEYS,
    content_text,
    find_role,
    has_lone_surrogate,
    instruction_messages,
    with_reasoning,
)
from model.text.prompt_template import PromptTemplate
from model.types import Message

KEYS = "instruction and output, messages, or conversations"
# On a reply: false or 0 excludes it from learning. OpenAI, ms-swift, axolotl and others.
MARKS = ("weight", "loss", "train", "training", "trainable")
# Keys of rows and turns that do not change what is learned.
METADATA = frozenset({
    "author", "category", "conversation_id", "create_time", "created", "created_at", "dataset",
    "date", "id", "idx", "index", "lang", "language", "license", "meta", "metadata", "model",
    "name", "num_turns", "prompt_id", "source", "split", "subset", "tags", "task", "timestamp",
    "title", "topic", "turn", "update_time", "url", "uuid",
})  # fmt: skip


class RowError(LinlyError):
    """A row cannot be learned from: its text is the reason."""


@dataclass(frozen=True)
class RowChat:
    """The chat in a row, up to its last reply.

    `unlearned` are the indices of replies with a mark that excludes them from learning. `unread`
    are the keys of the row and of its turns that are neither read nor known to be metadata.
    """

    messages: tuple[Message, ...]
    unlearned: frozenset[int] = frozenset()
    unread: frozenset[str] = frozenset()


def read_chat(value: Any, template: PromptTemplate) -> RowChat:
    """Reads a row. `template` decides how an instruction's input is written.

    Raises:
        RowError: it is not a chat, or nothing in it is learned.
    """
    if not isinstance(value, dict):
        raise RowError("row_not_an_object", kind=_kind(value), keys=KEYS)
    for keys, read in _formats(template):
        if all(key in value for key in keys):
            turns, used = read(value)
            return _check_chat(turns, value.keys() - used)
    found = ", ".join(map(str, value)) or "nothing"
    raise RowError("row_without_keys", found=found[:80], keys=KEYS)


@dataclass(frozen=True)
class _Turn:
    """A message, whether it is learned, and the keys that were not read."""

    message: Message
    learned: bool = True
    unread: frozenset[str] = frozenset()


_Read = tuple[list[_Turn], set[str]]  # the turns, and the row's keys that were read


def _formats(template: PromptTemplate) -> Sequence[tuple[tuple[str, ...], Callable[..., _Read]]]:
    """Each format's reader, by the keys that a row of the format has."""
    return (
        (("messages",), lambda row: _turns(row, "messages")),
        (("conversations",), lambda row: _turns(row, "conversations")),
        (("conversation",), lambda row: _turns(row, "conversation")),
        (("instruction", "output"), lambda row: _alpaca(row, template)),
        (("prompt", "completion"), lambda row: _single_turn(row, "prompt", "completion")),
        (("prompt", "response"), lambda row: _single_turn(row, "prompt", "response")),
    )


def _alpaca(row: Mapping[str, Any], template: PromptTemplate) -> _Read:
    input_text = _text(row.get("input") or "", "input")
    instruction = _text(row["instruction"], "instruction")
    *opening, question = instruction_messages(instruction, input_text, template)
    messages = [*(_system(row) or opening), *_history(row.get("history") or []), question]
    used = {"instruction", "input", "output", "system", "history", *REASONING_KEYS}
    # Alpaca's own data has each row as `text` once more.
    return [*map(_Turn, messages), _Turn(_reply(row, "output", "output"))], used | {"text"}


def _history(turns: Any) -> list[Message]:
    """Earlier turns: a list of [question, reply]."""
    messages = []
    for turn in turns if isinstance(turns, list) else [turns]:
        if not isinstance(turn, list) or len(turn) != 2:
            raise RowError("history_not_pairs")
        question, reply = (_text(text, "history") for text in turn)
        messages += [Message("user", question), Message("assistant", reply)]
    return messages


def _single_turn(row: Mapping[str, Any], question: str, reply: str) -> _Read:
    messages = [
        *_system(row),
        Message("user", _text(row[question], question)),
        _reply(row, reply, reply),
    ]
    return list(map(_Turn, messages)), {"system", question, reply, *REASONING_KEYS}


def _reply(row: Mapping[str, Any], key: str, place: str) -> Message:
    """The reply in `row[key]`, after its reasoning if that has a key of its own."""
    text = _text(row.get(key), place)
    for name in REASONING_KEYS:
        if row.get(name) is not None:
            return Message("assistant", with_reasoning(text, _text(row[name], f"{place}.{name}")))
    return Message("assistant", text)


def _system(row: Mapping[str, Any]) -> list[Message]:
    prompt = _text(row.get("system") or "", "system")
    return [Message("system", prompt)] if prompt.strip() else []


def _turns(row: Mapping[str, Any], key: str) -> _Read:
    turns = row[key]
    if not isinstance(turns, list):
        raise RowError("row_field_not_a_list", place=key, kind=_kind(turns))
    read = [_turn(turn, f"{key}[{number}]") for number, turn in enumerate(turns)]
    has_system = read and read[0].message.role == "system"
    return read if has_system else [*map(_Turn, _system(row)), *read], {key, "system"}


def _turn(turn: Any, place: str) -> _Turn:
    if not isinstance(turn, dict):
        raise RowError("row_field_not_an_object", place=place, kind=_kind(turn))
    name = turn.get("role", turn.get("from"))
    role = find_role(name)
    if role is None:
        raise RowError("row_role_unknown", place=place, role=name)
    key = "content" if "content" in turn else "value"
    used = {"role", "from", "content", "value"}
    if role != "assistant":
        message = Message(role, _text(turn.get(key), place))
        return _Turn(message, unread=frozenset(turn.keys() - used))
    marks = {mark: turn[mark] for mark in MARKS if turn.get(mark) is not None}
    for mark, value in marks.items():
        if value not in (0, 1):  # True and False are, too
            raise RowError("row_mark_unknown", place=place, mark=mark, value=value)
    learned = all(marks.values())
    used |= {*MARKS, *REASONING_KEYS}
    return _Turn(_reply(turn, key, place), learned, frozenset(turn.keys() - used))


def _text(value: Any, place: str) -> str:
    text = content_text(value)
    if text is None:
        raise RowError("row_field_not_text", place=place, kind=_kind(value))
    if has_lone_surrogate(text):
        raise RowError("row_half_character", place=place)
    return text


def _check_chat(turns: list[_Turn], unread: set[str]) -> RowChat:
    """The chat up to the last reply that is learned: there is nothing to learn after it."""
    messages = [turn.message for turn in turns]
    if not any(message.role == "assistant" for message in messages):
        raise RowError("row_without_reply")
    if turns[0].message.role == "assistant":  # there is no prompt that could ask for it
        turns = [replace(turns[0], learned=False), *turns[1:]]
    while turns and not (turns[-1].message.role == "assistant" and turns[-1].learned):
        turns = turns[:-1]
    if not turns:
        raise RowError("row_without_learned_reply")
    messages = messages[: len(turns)]
    replies = [t.message.content for t in turns if t.message.role == "assistant" and t.learned]
    if not any(map(str.strip, replies)):
        raise RowError("row_reply_empty")
    if any(message.role == "system" for message in messages[1:]):
        raise RowError("row_system_not_first")
    unlearned = (i for i, turn in enumerate(turns) if not turn.learned)
    unread = unread.union(*(turn.unread for turn in turns))
    return RowChat(tuple(messages), frozenset(unlearned), frozenset(unread - METADATA))


def _kind(value: Any) -> str:
    kinds = {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "true or false",
        type(None): "null",
    }
    return kinds.get(type(value), "a number")
