"""Reads chats that are lists of messages, and rows of training data.

The forms are OpenAI's (`messages`), ShareGPT's (`conversations`), Claude's (`chat_messages`),
Alpaca's (`instruction`, `input`, `output`, and LLaMA-Factory's `history`), and `prompt` with
`completion` or `response`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from model.text.chat_rows import REASONING_KEYS, find_role, with_reasoning
from model.types import Role
from web.chats.store.models import ImportedChat
from web.chats.transfer.import_models import (
    MAX_ROLE,
    NoExportError,
    bound_messages,
    read_title,
    system_text,
)
from web.chats.transfer.message_content import (
    LeftOut,
    LeftOutCounts,
    Turn,
    content_text,
    count,
    count_files,
    read_time,
)
from web.chats.transfer.message_trees import ChatHeader, build_chat, chain

LISTS = ("messages", "conversations", "conversation", "chat_messages")
QUESTIONS, REPLIES = ("instruction", "prompt"), ("output", "completion", "response")
RANKED = ("chosen", "rejected")  # replies to learn a preference from
TOOL_ROLES = {
    **dict.fromkeys(("tool", "function", "observation", "ipython"), LeftOut.TOOL_RESULTS),
    **dict.fromkeys(("function_call", "tool_call"), LeftOut.TOOL_CALLS),
}


def has_messages(value: dict[str, Any]) -> bool:
    """Whether this is a chat of one of the forms that `read_message_list` reads."""
    return any(key in value for key in LISTS) or all(
        any(key in value for key in keys) for keys in (QUESTIONS, REPLIES)
    )


def read_message_list(value: dict[str, Any], counts: LeftOutCounts) -> ImportedChat:
    """Returns the chat.

    Raises:
        RequestError: something in it is missing, invalid or too large.
    """
    name = next((key for key in LISTS if key in value), None)
    rows = value[name] if name else list(_row_messages(value))
    if not isinstance(rows, list):
        raise NoExportError("import_field_missing", name=name)
    bound_messages(rows)
    turns = [read_turn(_require_object(row), counts) for row in rows]
    count_tools(value, counts)
    count(counts, LeftOut.ANSWERS, sum(bool(value.get(key)) for key in RANKED))
    title = read_title(value.get("title", value.get("name")))
    updated = read_time(value.get("updated_at"))
    chat = build_chat(ChatHeader(title, system_text(value.get("system")), updated), chain(turns))
    if chat is None:
        raise NoExportError("import_chat_without_messages")
    return chat


def count_tools(value: dict[str, Any], counts: LeftOutCounts) -> None:
    """Counts the descriptions of tools: a list, or as much in JSON or another text."""
    tools = value.get("tools") or value.get("functions")
    if tools and tools != "[]":
        count(counts, LeftOut.TOOLS, len(tools) if isinstance(tools, list) else 1)


def read_turn(message: dict[str, Any], counts: LeftOutCounts) -> Turn | None:
    """Returns a message, or None and counts what it has, if nothing of it can be imported.

    Raises:
        RequestError: its role or its content is missing or invalid.
    """
    name = message.get("role", message.get("from", message.get("sender")))
    kind = TOOL_ROLES.get(name.lower()) if isinstance(name, str) else None
    if kind is not None:
        count(counts, kind)
        return None
    role = _require_role(name)
    calls = _count_calls(message, counts)
    for key in ("files", "attachments"):
        count_files(message.get(key), counts)
    for key in ("sources", "citations"):
        count(counts, LeftOut.CITATIONS, len(_listed(message.get(key))))
    content = next((message[key] for key in ("content", "value", "text") if key in message), None)
    text = "" if content is None and calls else content_text(content, counts)
    reasoning = next((message[key] for key in REASONING_KEYS if message.get(key)), "")
    if role == "assistant" and reasoning:
        text = with_reasoning(text, content_text(reasoning, counts))
    if not text and calls:
        return None
    return Turn(role, text, read_time(message.get("timestamp", message.get("created_at"))))


def _row_messages(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the messages of a row of training data."""
    for pair in _listed(row.get("history")):
        if not isinstance(pair, list) or len(pair) != 2:
            raise NoExportError("import_field_missing", name="history")
        yield {"role": "user", "content": pair[0]}
        yield {"role": "assistant", "content": pair[1]}
    question = next(row[key] for key in QUESTIONS if key in row)
    if row.get("input"):
        question = (
            f"{_require_text(question, 'instruction')}\n{_require_text(row['input'], 'input')}"
        )
    yield {"role": "user", "content": question}
    reply = next(row[key] for key in REPLIES if key in row)
    yield {"role": "assistant", "content": reply, **{key: row.get(key) for key in REASONING_KEYS}}


def _count_calls(message: dict[str, Any], counts: LeftOutCounts) -> int:
    """Counts a message's calls of tools, and returns their number."""
    calls = len(_listed(message.get("tool_calls"))) + bool(message.get("function_call"))
    count(counts, LeftOut.TOOL_CALLS, calls)
    return calls


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _require_object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise NoExportError("import_not_an_object")
    return value


def _require_text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise NoExportError("import_field_missing", name=name)
    return value


def _require_role(name: object) -> Role:
    role = find_role(_require_text(name, "role")[:MAX_ROLE])
    if role is None:
        raise NoExportError("import_unknown_role")
    return role
