"""Reads chats from files: this program's exports, and what others write.

Nothing in a file is trusted: all of it is checked, and all ids are made anew. What is refused is
refused as a whole, with a RequestError of one sentence. A file is read chat by chat and in small
steps, so that a thread that imports one does not hold the others up.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from model.types import RequestError
from web.chats.foreign import (
    PROGRAMS,
    Turn,
    conversation_turns,
    message_turns,
    refuse_other_programs,
)
from web.chats.native import new_id, read_chat
from web.chats.shapes import NoExportError, require_field
from web.chats.store.models import Chat, ChatMessage, ChatSettings, Vote
from web.chats.store.serialization import MAX_SETTING, sanitize_text
from web.chats.titles import one_line, title_for
from web.chats.transfer.json_reader import JsonError, JsonReader

FORMAT = "linly-chats"
KEYS = {"format", "version", "chats", "messages", "conversations", "system", "title", *PROGRAMS}
VERSION = 1
MAX_MESSAGES = 100_000  # in one file; `shapes` bounds those of one chat
MAX_CHATS = 1_000
MAX_JSON = 100_000_000  # characters


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
    """As `read_chats`, all at once."""
    return Imported(tuple(read_chats(text)))


def read_chats(text: str) -> Iterator[ImportedChat]:
    """The chats of an export, or of a file with `messages` as OpenAI has them, or ShareGPT's.

    Several of them may stand in a list. Whether the end of the file is as it should be turns out
    at the end: what was read until then is to be undone if not.

    Raises:
        RequestError: it is no such file, or too large.
    """
    if len(text) > MAX_JSON:
        raise RequestError(f"The file is longer than {MAX_JSON // 1_000_000} MB", "Split it.")
    try:
        yield from _bounded(_all_chats(JsonReader(text)))
    except JsonError as error:
        raise NoExportError(str(error)) from error


def _bounded(chats: Iterator[ImportedChat]) -> Iterator[ImportedChat]:
    count = messages = 0
    for chat in chats:
        count, messages = count + 1, messages + len(chat.messages)
        if count > MAX_CHATS or messages > MAX_MESSAGES:
            most = f"{MAX_CHATS} chats, or {MAX_MESSAGES} messages"
            raise RequestError(f"The file has over {most}", "Split it.")
        yield chat
    if not count:
        raise NoExportError("it is empty")


def _all_chats(reader: JsonReader) -> Iterator[ImportedChat]:
    if reader.peek() == "[":
        for _ in reader.items():
            yield from _chats(reader)
    else:
        yield from _chats(reader)
    reader.finish()


def _chats(reader: JsonReader) -> Iterator[ImportedChat]:
    """Those of an export, or the one of a foreign object. An export's are read one by one, where
    it says what it is before it has them, as those of this program do."""
    if reader.peek() != "{":
        reader.value()
        raise NoExportError("a chat in it is no object")
    value: dict[str, Any] = {}
    for key in reader.members():
        if key == "chats" and {"format", "version"} <= value.keys() and reader.peek() == "[":
            _check_format(value)
            for _ in reader.items():
                yield ImportedChat(*read_chat(reader.value()))
            value[key] = []  # they have been read
        elif key in KEYS:
            value[key] = reader.value()
        else:
            reader.skip()
    yield from _chats_of(value)


def _chats_of(value: dict[str, Any]) -> Iterator[ImportedChat]:
    if "format" in value:
        _check_format(value)
        yield from (ImportedChat(*read_chat(raw)) for raw in require_field(value, "chats", list))
    elif "messages" in value:
        yield _foreign(value, message_turns(value))
    else:
        refuse_other_programs(value)
        yield _foreign(value, conversation_turns(value))


def _check_format(value: dict[str, Any]) -> None:
    if value["format"] != FORMAT:
        raise NoExportError("its format is another program's")
    if not 1 <= require_field(value, "version", int) <= VERSION:
        raise RequestError("The file is of a newer version of this program", "Update the program.")


def _foreign(value: dict[str, Any], turns: list[Turn]) -> ImportedChat:
    """A chat without branches. A system prompt at its beginning becomes the chat's."""
    system = sanitize_text(require_field(value, "system", str, ""))
    if turns and turns[0][0] == "system":
        system, turns = turns[0][1], turns[1:]
    if len(system) > MAX_SETTING:
        raise RequestError(
            f"The system prompt is longer than {MAX_SETTING} characters", "Shorten it."
        )
    if not turns:
        raise NoExportError("a chat in it has no messages")
    now = time.time()
    messages: list[ChatMessage] = []
    for role, text in turns:
        parent = messages[-1].id if messages else None
        messages.append(ChatMessage(new_id(), parent, role, text, created=now))
    title = sanitize_text(one_line(require_field(value, "title", str, ""))) or title_for(
        messages[0].text
    )
    settings = ChatSettings(system=system)
    chat = Chat(new_id(), title, now, now, messages[-1].id, settings)
    return ImportedChat(chat, tuple(messages))
