"""Reads chats of other programs: lists of messages as OpenAI or ShareGPT have them.

The exports of ChatGPT and Open WebUI are refused by name.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from model.errors import RequestError
from web.chats.store.models import (
    MAX_SETTING,
    Chat,
    ChatMessage,
    ChatSettings,
    ImportedChat,
    generate_title,
)
from web.chats.transfer.import_models import (
    NoExportError,
    OpenAIChat,
    OpenAIMessage,
    ShareGPTChat,
    ShareGPTMessage,
)
from web.chats.transfer.own_format import new_id

PROGRAMS = {"mapping": "ChatGPT", "chat": "Open WebUI"}  # by a key that only their chats have


def read_other_chat(value: dict[str, Any]) -> ImportedChat:
    """Returns a chat of another program.

    Raises:
        RequestError: it is of no known form, or something is missing, invalid or too large.
    """
    if "messages" in value:
        chat = OpenAIChat.parse(value)
        return _imported(chat, map(OpenAIMessage.parse, chat.messages))
    _refuse_other_exports(value)
    chat = ShareGPTChat.parse(value)
    return _imported(chat, map(ShareGPTMessage.parse, chat.messages))


def _refuse_other_exports(value: dict[str, Any]) -> None:
    for key, program in PROGRAMS.items():
        if isinstance(value.get(key), dict):
            raise RequestError(
                "import_unsupported_program",
                program=program,
            )


def _imported(
    chat: OpenAIChat, messages: Iterable[OpenAIMessage | ShareGPTMessage]
) -> ImportedChat:
    """Returns a chat with one branch. A system message at its beginning becomes its setting."""
    turns = [(message.role, message.content) for message in messages]
    system = chat.system
    if turns and turns[0][0] == "system":
        system, turns = turns[0][1], turns[1:]
    if len(system) > MAX_SETTING:
        raise RequestError("import_system_prompt_too_long", max_setting=MAX_SETTING)
    if not turns:
        raise NoExportError("import_chat_without_messages")
    now = time.time()
    branch: list[ChatMessage] = []
    for role, text in turns:
        parent = branch[-1].id if branch else None
        branch.append(ChatMessage(new_id(), parent, role, text, created=now))
    title = chat.title or generate_title(branch[0].text)
    imported = Chat(new_id(), title, now, now, branch[-1].id, ChatSettings(system=system))
    return ImportedChat(imported, tuple(branch))
