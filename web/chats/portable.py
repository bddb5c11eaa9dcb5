"""Chats as files: JSON that can be read back, Markdown for people, and data for a training."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from web.chats import branches
from web.chats.codec import run_value, settings_value
from web.chats.imports import FORMAT, VERSION, Imported, ImportedChat, from_json
from web.chats.records import Chat, ChatMessage, State, Vote
from web.chats.titles import MOST_MADE_UP, one_line

__all__ = [
    "Exported",
    "Imported",
    "ImportedChat",
    "file_name",
    "from_json",
    "preference_pairs",
    "to_json",
    "to_markdown",
]

Turn = dict[str, str]


@dataclass(frozen=True)
class Exported:
    """A chat with all its messages, in order of creation, and its votes."""

    chat: Chat
    messages: Mapping[str, ChatMessage]
    votes: Sequence[Vote] = ()


def file_name(chat: Chat) -> str:
    """A name for a chat's file, without its ending."""
    return re.sub(r"\W+", "-", chat.title)[:MOST_MADE_UP].strip("-") or "chat"


def to_json(chats: Iterable[Exported]) -> str:
    """Everything about some chats, for `from_json`."""
    value = {"format": FORMAT, "version": VERSION, "chats": [_chat(chat) for chat in chats]}
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def _chat(exported: Exported) -> dict[str, Any]:
    chat = exported.chat
    return {
        "title": chat.title,
        "created": chat.created,
        "updated": chat.updated,
        "head": chat.head,
        "settings": settings_value(chat.settings),
        "messages": [_message(message) for message in exported.messages.values()],
        "votes": [
            {"comparison": vote.comparison, "winner": vote.winner, "created": vote.created}
            for vote in exported.votes
        ],
    }


def _message(message: ChatMessage) -> dict[str, Any]:
    streaming = message.state is State.STREAMING  # nobody goes on with it in a file
    return {
        "id": message.id,
        "parent": message.parent,
        "role": message.role,
        "text": message.text,
        "state": (State.INTERRUPTED if streaming else message.state).value,
        "created": message.created,
        "error": message.error,
        "comparison": message.comparison,
        "repeats": message.repeats,
        "runs": [run_value(run) for run in message.runs],
    }


def to_markdown(chat: Chat, path: Iterable[ChatMessage]) -> str:
    """One branch, to be read. What was said stands in it letter by letter."""
    parts = [f"# {one_line(chat.title)}"]
    if chat.settings.system.strip():
        parts += ["## System", chat.settings.system]
    for message in path:
        parts += [f"## {_speaker(message)}", message.text]
    return "\n\n".join(parts) + "\n"


def _speaker(message: ChatMessage) -> str:
    if message.role != "assistant" or not message.runs:
        return message.role.capitalize()
    run = message.runs[-1]
    return f"Assistant ({one_line(run.settings.adapter or run.base)})"


def preference_pairs(chats: Iterable[Exported]) -> str:
    """JSON Lines of `prompt`, `chosen` and `rejected`, as TRL takes them for conversations.

    Each reply that lost a vote makes a line with the one that won. Ties make none, nor do replies
    that failed or are empty, nor those that say the same.
    """
    pairs = (pair for chat in chats for pair in _pairs(chat))
    return "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)


def _pairs(exported: Exported) -> Iterator[dict[str, list[Turn]]]:
    compared = defaultdict(list)
    for message in exported.messages.values():
        if message.comparison and _counts(message):
            compared[message.comparison].append(message)
    for vote in exported.votes:
        rivals = compared[vote.comparison]
        for winner in (reply for reply in rivals if reply.id == vote.winner):
            prompt = _prompt(exported.messages, winner)
            for loser in (reply for reply in rivals if reply.text != winner.text):
                yield {"prompt": prompt, "chosen": [_turn(winner)], "rejected": [_turn(loser)]}


def _prompt(messages: Mapping[str, ChatMessage], reply: ChatMessage) -> list[Turn]:
    """What the model was sent: replies that came to nothing were left out."""
    system = reply.runs[0].settings.system if reply.runs else ""
    asked = branches.path(messages, reply.parent)
    first = [{"role": "system", "content": system}] if system.strip() else []
    return first + [_turn(m) for m in asked if m.text or m.role == "user"]


def _counts(reply: ChatMessage) -> bool:
    return bool(reply.text.strip()) and reply.state not in (State.FAILED, State.STREAMING)


def _turn(message: ChatMessage) -> Turn:
    return {"role": message.role, "content": message.text}
