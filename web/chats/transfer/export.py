"""Writes an owner's chats as files: JSON that can be imported, Markdown, and training data.

A file is made in chunks of text. The store is read one page of messages at a time, so no file is
ever in memory as a whole.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from web.chats.message_tree import path_to
from web.chats.store.chat_store import ChatStore
from web.chats.store.errors import UnknownChatError
from web.chats.store.models import (
    MAX_GENERATED_TITLE,
    Chat,
    ChatMessage,
    MessageState,
    Vote,
    collapse_whitespace,
)
from web.chats.store.serialization import run_value, settings_value
from web.chats.transfer.import_file import FORMAT, VERSION

CHUNK = 65_536  # characters

Turn = dict[str, str]
ChatParts = tuple[Chat, Sequence[Vote], Iterable[ChatMessage]]


def file_name(chat: Chat) -> str:
    """Returns a name for a chat's file, without an ending."""
    return re.sub(r"\W+", "-", chat.title)[:MAX_GENERATED_TITLE].strip("-") or "chat"


def export_chats(store: ChatStore, owner: str) -> Iterator[str]:
    """Yields all of the owner's chats as one JSON document, the newest first.

    A chat that is deleted meanwhile is in it as a whole, or not at all.

    Raises:
        StoreError: while it is read.
    """
    return in_chunks(json_parts(_all_parts(store, owner)))


def export_chat(store: ChatStore, owner: str, chat: str) -> Iterator[str]:
    """Yields one chat in the form of `export_chats`.

    Raises:
        UnknownChatError: at once.
        StoreError
    """
    found, votes = store.chat(owner, chat), store.votes(owner, chat)
    return in_chunks(json_parts([(found, votes, store.each_message(owner, chat))]))


def export_markdown(store: ChatStore, owner: str, chat: str) -> Iterator[str]:
    """Yields the branch that a chat shows, as Markdown.

    Raises:
        UnknownChatError, StoreError: at once.
    """
    found = store.chat(owner, chat)
    return in_chunks(markdown_parts(found, path_to(store.messages(owner, chat), found.head)))


def export_pairs(store: ChatStore, owner: str) -> Iterator[str]:
    """Yields the owner's votes as preference pairs in JSON Lines; nothing, if there is no pair.

    Raises:
        StoreError: while it is read.
    """
    return in_chunks(_all_pairs(store, owner))


def in_chunks(parts: Iterable[str]) -> Iterator[str]:
    """Yields the same text in chunks of at most `CHUNK` characters."""
    pieces: list[str] = []
    length = 0
    for part in parts:
        for start in range(0, len(part), CHUNK):
            piece = part[start : start + CHUNK]
            if length + len(piece) > CHUNK:
                yield "".join(pieces)
                pieces, length = [], 0
            pieces.append(piece)
            length += len(piece)
    if pieces:
        yield "".join(pieces)


def _all_parts(store: ChatStore, owner: str) -> Iterator[ChatParts]:
    """Reads the votes before the messages, so that each vote's replies are there."""
    votes = _votes_by_chat(store, owner)
    for chat in store.each_chat(owner):
        yield chat, votes.get(chat.id, []), store.each_message(owner, chat.id)


def _votes_by_chat(store: ChatStore, owner: str) -> dict[str, list[Vote]]:
    """All at once: they are small, and few, as a user casts each."""
    votes: dict[str, list[Vote]] = defaultdict(list)
    for vote in store.votes(owner):
        votes[vote.chat].append(vote)
    return votes


def _all_pairs(store: ChatStore, owner: str) -> Iterator[str]:
    for chat, votes in _votes_by_chat(store, owner).items():
        try:
            messages = store.messages(owner, chat)
        except UnknownChatError:  # it was deleted meanwhile
            continue
        yield from pair_parts(messages, votes)


def json_parts(chats: Iterable[ChatParts]) -> Iterator[str]:
    """Yields chats in the form that `read_chats` reads: their votes, and their messages in order of
    creation, one a line."""
    yield f'{{\n "format": {_json(FORMAT)},\n "version": {VERSION},\n "chats": ['
    comma = ""
    for chat, votes, messages in chats:
        yield f"{comma}\n  {{\n"
        yield from (f"   {_json(key)}: {_json(value)},\n" for key, value in _fields(chat, votes))
        yield '   "messages": ['
        comma = ""
        for message in messages:
            yield f"{comma}\n    {_json(_message_value(message))}"
            comma = ","
        yield "\n   ]\n  }"
        comma = ","
    yield "\n ]\n}\n"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _fields(chat: Chat, votes: Sequence[Vote]) -> Iterator[tuple[str, object]]:
    """Yields the fields of a chat, as `import_models.ExportedChat` reads them."""
    yield "title", chat.title
    yield "created", chat.created
    yield "updated", chat.updated
    yield "head", chat.head
    yield "settings", settings_value(chat.settings)
    yield (
        "votes",
        [
            {"comparison": vote.comparison, "winner": vote.winner, "created": vote.created}
            for vote in votes
        ],
    )


def _message_value(message: ChatMessage) -> dict[str, Any]:
    """Returns a message, as `import_models.ExportedMessage` reads it."""
    streaming = message.state is MessageState.STREAMING  # no server goes on with it in a file
    return {
        "id": message.id,
        "parent": message.parent,
        "role": message.role,
        "text": message.text,
        "state": (MessageState.INTERRUPTED if streaming else message.state).value,
        "created": message.created,
        "error": message.error,
        "comparison": message.comparison,
        "repeats": message.repeats,
        "runs": [run_value(run) for run in message.runs],
    }


def markdown_parts(chat: Chat, branch: Iterable[ChatMessage]) -> Iterator[str]:
    """Yields one branch for people to read, with the messages' texts as they are."""
    yield f"# {collapse_whitespace(chat.title)}"
    if chat.settings.system.strip():
        yield f"\n\n## System\n\n{chat.settings.system}"
    for message in branch:
        yield f"\n\n## {_speaker(message)}\n\n{message.text}"
    yield "\n"


def _speaker(message: ChatMessage) -> str:
    if message.role != "assistant" or not message.runs:
        return message.role.capitalize()
    run = message.runs[-1]
    return f"Assistant ({collapse_whitespace(run.settings.adapter or run.base)})"


def pair_parts(messages: Mapping[str, ChatMessage], votes: Iterable[Vote]) -> Iterator[str]:
    """Yields JSON Lines of `prompt`, `chosen` and `rejected`, as TRL takes them for conversations,
    from the votes in one chat.

    Each reply that lost a vote makes a line with the winner. Ties make no line, nor do replies that
    failed or are empty, nor two replies with the same text.
    """
    compared = defaultdict(list)
    for message in messages.values():
        if message.comparison and _is_complete(message):
            compared[message.comparison].append(message)
    for vote in votes:
        replies = compared[vote.comparison]
        for winner in (reply for reply in replies if reply.id == vote.winner):
            prompt = _prompt(messages, winner)
            for loser in (reply for reply in replies if reply.text != winner.text):
                pair = {"prompt": prompt, "chosen": [_turn(winner)], "rejected": [_turn(loser)]}
                yield f"{_json(pair)}\n"


def _prompt(messages: Mapping[str, ChatMessage], reply: ChatMessage) -> list[Turn]:
    """Returns what the model was sent: empty replies were left out."""
    system = reply.runs[0].settings.system if reply.runs else ""
    branch = path_to(messages, reply.parent)
    first = [{"role": "system", "content": system}] if system.strip() else []
    return first + [_turn(m) for m in branch if m.text or m.role == "user"]


def _is_complete(reply: ChatMessage) -> bool:
    return bool(reply.text.strip()) and reply.state not in (
        MessageState.FAILED,
        MessageState.STREAMING,
    )


def _turn(message: ChatMessage) -> Turn:
    return {"role": message.role, "content": message.text}
