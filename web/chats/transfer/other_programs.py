"""Reads chats of other programs: ChatGPT, Open WebUI, and lists of messages."""

from __future__ import annotations

from typing import Any

from web.chats.store.models import ImportedChat
from web.chats.transfer.chatgpt import read_chatgpt
from web.chats.transfer.import_models import NoExportError
from web.chats.transfer.message_content import LeftOut, LeftOutCounts, count
from web.chats.transfer.message_lists import (
    LISTS,
    QUESTIONS,
    RANKED,
    REPLIES,
    has_messages,
    read_message_list,
)
from web.chats.transfer.open_webui import is_open_webui, read_open_webui

# The keys of a chat that are read; all others are skipped in the file.
KEYS = frozenset({
    "title", "name", "system", "tools", "functions", "input", "history", "reasoning_content",
    "reasoning", "thinking", "mapping", "current_node", "create_time", "update_time", "chat",
    "files", "params", "timestamp", "updated_at", *LISTS, *QUESTIONS, *REPLIES, *RANKED,
})  # fmt: skip
MAX_NAMED = 80  # characters of the keys in an error


def read_other_chat(
    value: dict[str, Any], names: list[str], counts: LeftOutCounts
) -> ImportedChat | None:
    """Returns a chat of another program; None and counts it, if an export has it without messages.

    Args:
        names: all keys of the object, of which `value` has those in `KEYS`.
        counts: counts what is left out.

    Raises:
        RequestError: it is of no known form, or something is missing, invalid or too large.
    """
    if isinstance(value.get("mapping"), dict):
        chat = read_chatgpt(value, counts)
    elif is_open_webui(value):
        chat = read_open_webui(value, counts)
    elif has_messages(value):
        return read_message_list(value, counts)
    else:
        found = ", ".join(names)[:MAX_NAMED] or "{}"
        raise NoExportError("import_unknown_form", found=found)
    if chat is None:
        count(counts, LeftOut.CHATS)
    return chat
