"""Chats of two owners, in the store and in files to import."""

from __future__ import annotations

import json
from typing import Any

from web.chats.store.chat_store import ChatStore
from web.chats.store.models import (
    Chat,
    ChatMessage,
    ChatSettings,
)

ANNA, MALLORY = "browser:anna", "browser:mallory"


def begin_chat(store: ChatStore, owner: str = ANNA) -> Chat:
    """Stores a chat with a question, and returns it."""
    chat = store.create(owner, "title", ChatSettings())
    store.add(owner, chat.id, ChatMessage(f"q-{chat.id}", None, "user", "secret"))
    return store.chat(owner, chat.id)


def export_file(chat: dict[str, Any]) -> str:
    """Returns an export of this program with one chat."""
    return json.dumps({"format": "linly-chats", "version": 1, "chats": [chat]})


def exported_chat(**changes: Any) -> dict[str, Any]:
    """Returns a chat in the form of an export, with changed fields."""
    message = {"id": "q", "role": "user", "text": "hello", "parent": None}
    return {"title": "t", "messages": [message], "head": "q"} | changes


def export_files(count: int) -> str:
    """Returns a list of exports with one chat each."""
    return json.dumps([json.loads(export_file(exported_chat()))] * count)


def with_message(**changes: Any) -> str:
    """Returns an export whose message has changed fields."""
    value = exported_chat()
    value["messages"][0] |= changes
    return export_file(value)
