"""Writes an owner's chats as files, in chunks of text.

The store is read one page of messages at a time, however much there is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from web.chats import branches
from web.chats.store.chat_store import ChatStore
from web.chats.store.errors import UnknownChatError
from web.chats.store.models import Vote
from web.chats.transfer.export import Parts, json_parts, markdown_parts, pair_parts

CHUNK = 65_536  # characters


def export_chats(store: ChatStore, owner: str) -> Iterator[str]:
    """All of the owner's chats as one JSON document, the newest first, in chunks of at most `CHUNK`
    characters. Chats that are deleted meanwhile may be in it or not, but none in part.

    Raises:
        StoreError: while it is read.
    """
    return in_chunks(json_parts(_readable(store, owner)))


def export_chat(store: ChatStore, owner: str, chat: str) -> Iterator[str]:
    """One chat as `export_chats` has it.

    Raises:
        UnknownChatError: at once.
        StoreError
    """
    found, votes = store.chat(owner, chat), store.votes(owner, chat)
    return in_chunks(json_parts([(found, votes, store.each_message(owner, chat))]))


def export_markdown(store: ChatStore, owner: str, chat: str) -> Iterator[str]:
    """The branch that a chat shows, to be read.

    Raises:
        UnknownChatError, StoreError: at once.
    """
    found = store.chat(owner, chat)
    branch = branches.path(store.messages(owner, chat), found.head)
    return in_chunks(markdown_parts(found, branch))


def export_pairs(store: ChatStore, owner: str) -> Iterator[str]:
    """The owner's votes as preference pairs in JSON Lines; nothing at all where there is no pair.

    Raises:
        StoreError: while it is read.
    """
    return in_chunks(_pairs(store, owner))


def in_chunks(parts: Iterable[str]) -> Iterator[str]:
    """The same text in chunks of `CHUNK` characters, and a last one."""
    waiting: list[str] = []
    length = 0
    for part in parts:
        for start in range(0, len(part), CHUNK):
            piece = part[start : start + CHUNK]
            if length + len(piece) > CHUNK:
                yield "".join(waiting)
                waiting, length = [], 0
            waiting.append(piece)
            length += len(piece)
    if waiting:
        yield "".join(waiting)


def _readable(store: ChatStore, owner: str) -> Iterator[Parts]:
    """The votes are read before the messages: what they are about is there by then."""
    votes = _votes(store, owner)
    for chat in store.each_chat(owner):
        yield chat, votes.get(chat.id, []), store.each_message(owner, chat.id)


def _votes(store: ChatStore, owner: str) -> dict[str, list[Vote]]:
    """By chat. They are small, and few: a reader casts each."""
    votes: dict[str, list[Vote]] = defaultdict(list)
    for vote in store.votes(owner):
        votes[vote.chat].append(vote)
    return votes


def _pairs(store: ChatStore, owner: str) -> Iterator[str]:
    for chat, votes in _votes(store, owner).items():
        try:
            messages = store.messages(owner, chat)
        except UnknownChatError:  # it was deleted meanwhile
            continue
        yield from pair_parts(messages, votes)
