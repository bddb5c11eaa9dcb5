"""Chats as files: JSON that can be read back, Markdown for people, and data for a training.

What is written comes in parts, one for each message, so that no file is ever in memory as a whole.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from web.chats import branches
from web.chats.store.models import Chat, ChatMessage, MessageState, Vote
from web.chats.store.serialization import run_value, settings_value
from web.chats.titles import MAX_GENERATED_TITLE, one_line
from web.chats.transfer.import_file import (
    FORMAT,
    VERSION,
    Imported,
    ImportedChat,
    from_json,
    read_chats,
)

__all__ = [
    "Imported",
    "ImportedChat",
    "file_name",
    "from_json",
    "json_parts",
    "markdown_parts",
    "pair_parts",
    "read_chats",
]

Turn = dict[str, str]
Parts = tuple[Chat, Sequence[Vote], Iterable[ChatMessage]]


def file_name(chat: Chat) -> str:
    """A name for a chat's file, without its ending."""
    return re.sub(r"\W+", "-", chat.title)[:MAX_GENERATED_TITLE].strip("-") or "chat"


def json_parts(chats: Iterable[Parts]) -> Iterator[str]:
    """Everything about some chats, for `read_chats`: the chats, their votes, and their messages in
    order of creation, each of which is a line."""
    yield f'{{\n "format": {_json(FORMAT)},\n "version": {VERSION},\n "chats": ['
    comma = ""
    for chat, votes, messages in chats:
        yield f"{comma}\n  {{\n"
        yield from (f"   {_json(key)}: {_json(value)},\n" for key, value in _chat(chat, votes))
        yield '   "messages": ['
        comma = ""
        for message in messages:
            yield f"{comma}\n    {_json(_message(message))}"
            comma = ","
        yield "\n   ]\n  }"
        comma = ","
    yield "\n ]\n}\n"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _chat(chat: Chat, votes: Sequence[Vote]) -> Iterator[tuple[str, object]]:
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


def _message(message: ChatMessage) -> dict[str, Any]:
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


def markdown_parts(chat: Chat, path: Iterable[ChatMessage]) -> Iterator[str]:
    """One branch, to be read. The messages stand in it letter by letter."""
    yield f"# {one_line(chat.title)}"
    if chat.settings.system.strip():
        yield f"\n\n## System\n\n{chat.settings.system}"
    for message in path:
        yield f"\n\n## {_speaker(message)}\n\n{message.text}"
    yield "\n"


def _speaker(message: ChatMessage) -> str:
    if message.role != "assistant" or not message.runs:
        return message.role.capitalize()
    run = message.runs[-1]
    return f"Assistant ({one_line(run.settings.adapter or run.base)})"


def pair_parts(messages: Mapping[str, ChatMessage], votes: Iterable[Vote]) -> Iterator[str]:
    """JSON Lines of `prompt`, `chosen` and `rejected`, as TRL takes them for conversations, from
    the votes in one chat.

    Each reply that lost a vote makes a line with the one that won. Ties make none, nor do replies
    that failed or are empty, nor those that say the same.
    """
    compared = defaultdict(list)
    for message in messages.values():
        if message.comparison and _counts(message):
            compared[message.comparison].append(message)
    for vote in votes:
        rivals = compared[vote.comparison]
        for winner in (reply for reply in rivals if reply.id == vote.winner):
            prompt = _prompt(messages, winner)
            for loser in (reply for reply in rivals if reply.text != winner.text):
                pair = {"prompt": prompt, "chosen": [_turn(winner)], "rejected": [_turn(loser)]}
                yield f"{_json(pair)}\n"


def _prompt(messages: Mapping[str, ChatMessage], reply: ChatMessage) -> list[Turn]:
    """What the model was sent: replies that came to nothing were left out."""
    system = reply.runs[0].settings.system if reply.runs else ""
    asked = branches.path(messages, reply.parent)
    first = [{"role": "system", "content": system}] if system.strip() else []
    return first + [_turn(m) for m in asked if m.text or m.role == "user"]


def _counts(reply: ChatMessage) -> bool:
    return bool(reply.text.strip()) and reply.state not in (
        MessageState.FAILED,
        MessageState.STREAMING,
    )


def _turn(message: ChatMessage) -> Turn:
    return {"role": message.role, "content": message.text}
