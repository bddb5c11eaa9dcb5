"""Reads the chats of Open WebUI's exports: a tree in `history`, or a list in `messages`."""

from __future__ import annotations

from typing import Any

from web.chats.store.models import ImportedChat
from web.chats.transfer.import_models import bound_messages, read_title, system_text
from web.chats.transfer.message_content import (
    LeftOut,
    LeftOutCounts,
    Turn,
    count,
    fields,
    read_time,
)
from web.chats.transfer.message_lists import read_turn
from web.chats.transfer.message_trees import ChatHeader, Node, build_chat, chain

# Elements within a reply's text, by their type.
DETAILS = {
    "reasoning": LeftOut.THOUGHTS,
    "tool_calls": LeftOut.TOOL_CALLS,
    "code_interpreter": LeftOut.TOOL_CALLS,
}
DETAILS_START, DETAILS_END = '<details type="', "</details>"


def is_open_webui(value: dict[str, Any]) -> bool:
    """Whether this is a chat of Open WebUI, or an item of its export that has one in `chat`."""
    return isinstance(value.get("chat"), dict) or "messages" in fields(value.get("history"))


def read_open_webui(value: dict[str, Any], counts: LeftOutCounts) -> ImportedChat | None:
    """Returns a chat with its branches, or None if it has no messages.

    Raises:
        RequestError: something in it is invalid or too large.
    """
    chat = value["chat"] if isinstance(value.get("chat"), dict) else value
    history = fields(chat.get("history"))
    tree = fields(history.get("messages"))
    if tree:
        bound_messages(tree)
        nodes = {name: _node(fields(raw), counts) for name, raw in tree.items()}
    else:
        listed = chat.get("messages")
        messages = bound_messages(listed) if isinstance(listed, list) else []
        nodes = chain(_turn(fields(message), counts) for message in messages)
    count(
        counts, LeftOut.FILES, len(listed) if isinstance(listed := chat.get("files"), list) else 0
    )
    title = read_title(value.get("title")) or read_title(chat.get("title"))
    system = chat.get("system") or fields(chat.get("params")).get("system")
    updated = read_time(value.get("updated_at") or chat.get("timestamp"))
    return build_chat(
        ChatHeader(title, system_text(system), updated), nodes, history.get("currentId")
    )


def _node(message: dict[str, Any], counts: LeftOutCounts) -> Node:
    parent = message.get("parentId")
    return Node(parent if isinstance(parent, str) else None, _turn(message, counts))


def _turn(message: dict[str, Any], counts: LeftOutCounts) -> Turn | None:
    """Returns a message, or None if it is empty, as a reply that failed is."""
    content = message.get("content")
    if isinstance(content, str) and message.get("role") == "assistant":
        content = _without_details(content, counts)
    turn = read_turn({**message, "content": "" if content is None else content}, counts)
    return turn if turn is not None and turn.text else None


def _without_details(text: str, counts: LeftOutCounts) -> str:
    """Returns a reply without the thoughts and tool calls that are written within its text."""
    kept, end = [], 0
    while (start := text.find(DETAILS_START, end)) >= 0:
        closing = text.find(DETAILS_END, start)
        if closing < 0:
            break
        kept.append(text[end:start])
        end = closing + len(DETAILS_END)
        kind = DETAILS.get(text[start + len(DETAILS_START) : closing].partition('"')[0])
        if kind is None:
            kept.append(text[start:end])
        else:
            count(counts, kind)
    return "".join((*kept, text[end:])).lstrip("\n") if end else text
