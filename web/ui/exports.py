"""Chats as files for a visitor: a name, a media type, and the text in pieces."""

from __future__ import annotations

from collections.abc import Iterator

from model.types import RequestError
from web.chats import portable
from web.chats.talk import Talk
from web.chats.visits import Visit

File = tuple[str, str, Iterator[str]]


def exported(talk: Talk, visit: Visit, kind: str) -> File:
    """One of: the chat that is shown as `json` or `markdown`, `all` chats, votes as `pairs`.

    Raises:
        RequestError: there is nothing to export.
    """
    if kind == "all":
        return "chats.json", "application/json", iter([portable.to_json(_everything(talk, visit))])
    if kind == "pairs":
        return "preferences.jsonl", "application/jsonl", iter([_pairs(talk, visit)])
    shown = talk.conversation(visit)
    if shown is None:
        raise RequestError("There is no chat to export yet", "Write a message.")
    name = portable.file_name(shown.chat)
    if kind == "markdown":
        text = portable.to_markdown(shown.chat, shown.branch)
        return f"{name}.md", "text/markdown", iter([text])
    votes = talk.store.votes(visit.owner.id, shown.chat.id)
    text = portable.to_json([portable.Exported(shown.chat, shown.messages, votes)])
    return f"{name}.json", "application/json", iter([text])


def _pairs(talk: Talk, visit: Visit) -> str:
    text = portable.preference_pairs(_everything(talk, visit))
    if not text:
        raise RequestError("There are no votes yet", "Compare adapters, and vote.")
    return text


def _everything(talk: Talk, visit: Visit) -> list[portable.Exported]:
    store, owner = talk.store, visit.owner.id
    return [
        portable.Exported(chat, store.messages(owner, chat.id), store.votes(owner, chat.id))
        for chat in store.chats(owner, limit=-1)
    ]
