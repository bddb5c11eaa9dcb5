"""Ways through a chat's tree of messages. Pure, and in time that grows with the messages alone.

The messages come in order of creation, as the store gives them: a parent before its children.
"""

from __future__ import annotations

from collections.abc import Mapping

from web.chats.store.models import ChatMessage


def path(messages: Mapping[str, ChatMessage], head: str | None) -> list[ChatMessage]:
    """From the first message to `head`; a parent that is missing, or a circle, ends it."""
    seen: dict[str, ChatMessage] = {}
    while head is not None and head in messages and head not in seen:
        seen[head] = messages[head]
        head = seen[head].parent
    return list(reversed(seen.values()))


def families(
    messages: Mapping[str, ChatMessage],
) -> dict[tuple[str | None, str], list[ChatMessage]]:
    """All siblings at once, by the message that they follow and their role."""
    found: dict[tuple[str | None, str], list[ChatMessage]] = {}
    for message in messages.values():
        found.setdefault((message.parent, message.role), []).append(message)
    return found


def newest_leaf(messages: Mapping[str, ChatMessage], message: str) -> str:
    """The last that was said below `message`, where a reader of it left off, or itself."""
    below, newest = {message}, message
    for other in messages.values():
        if other.parent in below:
            below.add(other.id)
            newest = other.id
    return newest


def comparison(
    messages: Mapping[str, ChatMessage], question: str, wanted: str | None = None
) -> list[ChatMessage]:
    """The replies that were made side by side to answer the message `question`: those of the
    comparison `wanted`, or the last ones."""
    compared = [m for m in messages.values() if m.parent == question and m.comparison]
    chosen = [reply for reply in compared if reply.comparison == wanted]
    return chosen or [reply for reply in compared if reply.comparison == compared[-1].comparison]
