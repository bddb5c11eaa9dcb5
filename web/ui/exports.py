"""Chats as files for a visitor: a name, a media type, and the text in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from model.errors import RequestError
from web.chats.chat_service import ChatService
from web.chats.tab_sessions import TabSession
from web.chats.transfer.export import (
    export_chat,
    export_chats,
    export_markdown,
    export_pairs,
    file_name,
)

File = tuple[str, str, Iterator[str]]


def exported(chat_service: ChatService, visit: TabSession, kind: str) -> File:
    """One of: the chat that is shown as `json` or `markdown`, `all` chats, votes as `pairs`. Its
    first piece is made here, the others when they are asked for.

    Raises:
        LinlyError: there is nothing to export, or it cannot be read.
    """
    store, owner = chat_service.store, visit.owner.id
    if kind == "all":
        return "chats.json", "application/json", _begun(export_chats(store, owner))
    if kind == "pairs":
        pairs = _begun(export_pairs(store, owner), "no_votes")
        return "preferences.jsonl", "application/jsonl", pairs
    if visit.chat is None:
        raise RequestError("no_chat_to_export")
    chat = store.chat(owner, visit.chat)
    if kind == "markdown":
        return (
            f"{file_name(chat)}.md",
            "text/markdown",
            _begun(export_markdown(store, owner, chat.id)),
        )
    text = _begun(export_chat(store, owner, chat.id))
    return f"{file_name(chat)}.json", "application/json", text


def _begun(pieces: Iterator[str], empty: str = "") -> Iterator[str]:
    first = next(pieces, "")
    if not first and empty:
        raise RequestError(empty)
    return chain([first], pieces)
