"""Chats of other programs: lists of turns, and exports that are refused by their program's name."""

from __future__ import annotations

from typing import Any

from model.types import RequestError, Role
from web.chats.shapes import NoExportError, require_field, require_messages, role_field
from web.chats.store.serialization import check_length, sanitize_text

Turn = tuple[Role, str]
PROGRAMS = {"mapping": "ChatGPT", "chat": "Open WebUI"}  # by what their chats alone have
SPEAKERS: dict[str, Role] = {  # those of training data, too, in lower case
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}


def message_turns(value: object) -> list[Turn]:
    """What is under `messages`, as OpenAI has it.

    Raises:
        RequestError: it is not of that shape.
    """
    return [
        (role_field(turn, "role", SPEAKERS), content_field(turn, "content"))
        for turn in require_messages(value, "messages")
    ]


def conversation_turns(value: object) -> list[Turn]:
    """What is under `conversations`, as ShareGPT has it.

    Raises:
        RequestError: it is not of that shape.
    """
    return [
        (role_field(turn, "from", SPEAKERS), content_field(turn, "value"))
        for turn in require_messages(value, "conversations")
    ]


def content_field(turn: dict[str, Any], name: str) -> str:
    """What a turn says: a text, or OpenAI's list of parts if all of them are text.

    Raises:
        NoExportError: it is neither.
    """
    content = turn.get(name)
    if isinstance(content, list):
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise NoExportError("a message in it holds more than text")
        content = "\n".join(require_field(part, "text", str) for part in content)
    if not isinstance(content, str):
        raise NoExportError(f'"{name}" is missing, or not as it should be')
    check_length(content)
    return sanitize_text(content)


def refuse_other_programs(value: dict[str, Any]) -> None:
    """Refuses the exports that people are likely to have, by name.

    Raises:
        RequestError: it is one of them.
    """
    for key, program in PROGRAMS.items():
        if isinstance(value.get(key), dict):
            raise RequestError(
                f"The file is an export of {program}, which cannot be read here",
                'Make it a list of chats with "messages" of role and content.',
            )
