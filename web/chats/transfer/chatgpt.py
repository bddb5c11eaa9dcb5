"""Reads the chats of ChatGPT's data export: a tree of messages in `mapping`.

The form has changed over the years: every field may be missing.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from model.text.chat_rows import find_role
from web.chats.store.models import ImportedChat, check_length, sanitize_text
from web.chats.transfer.import_models import bound_messages, read_title
from web.chats.transfer.message_content import (
    LeftOut,
    LeftOutCounts,
    Turn,
    content_text,
    count,
    count_files,
    fields,
    read_time,
)
from web.chats.transfer.message_trees import ChatHeader, Node, build_chat

TEXTS = {"text", "multimodal_text", "code"}
THOUGHTS = {"thoughts", "reasoning_recap"}
CUSTOM_INSTRUCTIONS = "user_editable_context"
MAX_LANGUAGE = 20  # characters of a programming language's name


def read_chatgpt(value: dict[str, Any], counts: LeftOutCounts) -> ImportedChat | None:
    """Returns a chat of ChatGPT with its branches, or None if it has no messages.

    Raises:
        RequestError: something in it is invalid or too large.
    """
    bound_messages(value["mapping"])
    nodes = {}
    for name, raw in value["mapping"].items():
        parent = fields(raw).get("parent")
        turn = _turn(fields(fields(raw).get("message")), counts)
        nodes[name] = Node(parent if isinstance(parent, str) else None, turn)
    updated = read_time(value.get("update_time") or value.get("create_time"))
    header = ChatHeader(read_title(value.get("title")), updated=updated)
    return build_chat(header, nodes, value.get("current_node"))


def _turn(message: dict[str, Any], counts: LeftOutCounts) -> Turn | None:
    """Returns a message, or None and counts what it has."""
    content = message.get("content")
    content = {"parts": [content]} if isinstance(content, str) else fields(content)
    kind = str(content.get("content_type", "text"))
    created = read_time(message.get("create_time"))
    metadata = fields(message.get("metadata"))
    if kind == CUSTOM_INSTRUCTIONS:
        return Turn("system", _custom_instructions(content, metadata), created)
    count_files(_unshown_files(metadata), counts)
    left_out: LeftOutCounts = Counter()
    text = _text(content, left_out)
    reason = _reason_to_leave_out(message, metadata, kind)
    if reason is None:
        counts.update(left_out)
        role = find_role(_role(message))
        return Turn(role, text, created) if role and text else None
    if kind not in TEXTS or text:
        images = left_out[LeftOut.IMAGES]  # tools make images, too: they are told as such
        count(counts, LeftOut.IMAGES if images else reason, images or 1)
    return None


def _reason_to_leave_out(
    message: dict[str, Any], metadata: dict[str, Any], kind: str
) -> LeftOut | None:
    if kind in THOUGHTS:
        return LeftOut.THOUGHTS
    if _role(message) == "tool":
        return LeftOut.TOOL_RESULTS
    if metadata.get("is_visually_hidden_from_conversation") is True:
        return LeftOut.HIDDEN
    if message.get("recipient") not in (None, "all"):
        return LeftOut.TOOL_CALLS
    is_message = kind in TEXTS and find_role(_role(message)) is not None
    return None if is_message or not message else LeftOut.OTHER


def _role(message: dict[str, Any]) -> object:
    return fields(message.get("author")).get("role", message.get("role"))


def _text(content: dict[str, Any], counts: LeftOutCounts) -> str:
    parts = content.get("parts")
    if not isinstance(parts, list):
        parts = [content["text"]] if isinstance(content.get("text"), str) else []
    parts = [_part(part) for part in parts if part is not None]
    text = content_text(parts, counts)
    return _code_block(text, content) if content.get("content_type") == "code" and text else text


def _part(part: object) -> object:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return part if isinstance(fields(part).get("content_type"), str) else {"type": "unknown"}


def _code_block(text: str, content: dict[str, Any]) -> str:
    language = str(content.get("language"))[:MAX_LANGUAGE]
    language = language if language.isalnum() and language not in ("None", "unknown") else ""
    fence = "````" if "```" in text else "```"
    return f"{fence}{language}\n{text}\n{fence}"


def _unshown_files(metadata: dict[str, Any]) -> list[Any]:
    """Returns the attachments without the images, which are parts of the message, too."""
    files = metadata.get("attachments")
    files = files if isinstance(files, list) else []
    return [f for f in files if not str(fields(f).get("mime_type")).startswith("image/")]


def _custom_instructions(content: dict[str, Any], metadata: dict[str, Any]) -> str:
    """Returns what the user told ChatGPT about themselves and its replies."""
    data = fields(metadata.get("user_context_message_data"))
    texts = (
        content.get("user_profile") or data.get("about_user_message"),
        content.get("user_instructions") or data.get("about_model_message"),
    )
    text = "\n\n".join(text for text in texts if isinstance(text, str) and text.strip())
    check_length(text)
    return sanitize_text(text)
