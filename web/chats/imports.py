"""Chats from files: this program's exports, and what others write.

Nothing in a file is trusted: all of it is checked, and all ids are made anew. What is refused is
refused as a whole, with a RequestError of one sentence.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from model.types import RequestError
from web.chats.codec import clean
from web.chats.foreign import Turn, conversation_turns, message_turns
from web.chats.native import new_id, read_chat
from web.chats.records import Chat, ChatMessage, ChatSettings, Vote
from web.chats.shapes import NoExportError, field
from web.chats.titles import title_for

FORMAT = "linly-chats"
VERSION = 1
MOST_MESSAGES = 100_000  # in one file; `shapes` bounds those of one chat
MOST_CHATS = 1_000
MOST_JSON = 100_000_000  # characters


@dataclass(frozen=True)
class ImportedChat:
    """A chat with ids of its own, its messages with parents before children, and its votes."""

    chat: Chat
    messages: tuple[ChatMessage, ...]
    votes: tuple[Vote, ...] = ()


@dataclass(frozen=True)
class Imported:
    """What was in a file."""

    chats: tuple[ImportedChat, ...]


def from_json(text: str) -> Imported:
    """The chats of an export, or of a file with `messages` as OpenAI has them, or ShareGPT's.

    Several of them may stand in a list.

    Raises:
        RequestError: it is no such file, or too large.
    """
    value = _load(text)
    chats: list[ImportedChat] = []
    messages = 0
    for chat in (chat for one in _listed(value) for chat in _chats(one)):
        chats.append(chat)
        messages += len(chat.messages)
        if len(chats) > MOST_CHATS or messages > MOST_MESSAGES:
            most = f"{MOST_CHATS} chats, or {MOST_MESSAGES} messages"
            raise RequestError(f"The file has over {most}", "Split it.")
    if not chats:
        raise NoExportError("it is empty")
    return Imported(tuple(chats))


def _load(text: str) -> object:
    if len(text) > MOST_JSON:
        raise RequestError(f"The file is longer than {MOST_JSON // 1_000_000} MB", "Split it.")
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise NoExportError("it is nested too deeply") from error
    except ValueError as error:
        raise NoExportError("it is no JSON") from error


def _refuse_constant(name: str) -> NoReturn:
    raise NoExportError(f"there is a number {name} in it")


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _chats(value: object) -> Iterator[ImportedChat]:
    """Those of an export, or the one of a foreign object."""
    if not isinstance(value, dict):
        raise NoExportError("a chat in it is no object")
    if "format" in value:
        _check_format(value)
        yield from (ImportedChat(*read_chat(raw)) for raw in field(value, "chats", list))
    elif "messages" in value:
        yield _foreign(value, message_turns(value))
    else:
        yield _foreign(value, conversation_turns(value))


def _check_format(value: dict[str, Any]) -> None:
    if value["format"] != FORMAT:
        raise NoExportError("its format is another program's")
    if not 1 <= field(value, "version", int) <= VERSION:
        raise RequestError("The file is of a newer version of this program", "Update the program.")


def _foreign(value: dict[str, Any], turns: list[Turn]) -> ImportedChat:
    """A chat without branches. A system prompt at its beginning becomes the chat's."""
    system = clean(field(value, "system", str, ""))
    if turns and turns[0][0] == "system":
        system, turns = turns[0][1], turns[1:]
    if not turns:
        raise NoExportError("a chat in it has no messages")
    now = time.time()
    messages: list[ChatMessage] = []
    for role, text in turns:
        parent = messages[-1].id if messages else None
        messages.append(ChatMessage(new_id(), parent, role, text, created=now))
    title = clean(field(value, "title", str, "")) or title_for(messages[0].text)
    settings = ChatSettings(system=system)
    chat = Chat(new_id(), title, now, now, messages[-1].id, settings)
    return ImportedChat(chat, tuple(messages))
