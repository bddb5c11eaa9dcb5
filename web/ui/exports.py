"""Exports of a tabor's chats: a file name, a media type, and the text in parts."""

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


def export_file(chat_service: ChatService, tab: TabSession, kind: str) -> File:
    """Returns the shown chat as `json` or `markdown`, `all` chats, or the votes as `pairs`.

    The first part is made here, the others as the iterator is read.

    Raises:
        LinlyError: there is nothing to export, or it cannot be read.
    """
    store, owner = chat_service.store, tab.owner.id
    if kind == "all":
        return "chats.json", "application/json", _with_first(export_chats(store, owner))
    if kind == "pairs":
        pairs = _with_first(export_pairs(store, owner), "no_votes")
        return "preferences.jsonl", "application/jsonl", pairs
    if tab.chat is None:
        raise RequestError("no_chat_to_export")
    chat = store.chat(owner, tab.chat)
    if kind == "markdown":
        return (
            f"{file_name(chat)}.md",
            "text/markdown",
            _with_first(export_markdown(store, owner, chat.id)),
        )
    text = _with_first(export_chat(store, owner, chat.id))
    return f"{file_name(chat)}.json", "application/json", text


def _with_first(parts: Iterator[str], empty: str = "") -> Iterator[str]:
    """Makes the first part, so that errors come before the response; `empty` is one of them."""
    first = next(parts, "")
    if not first and empty:
        raise RequestError(empty)
    return chain([first], parts)
