"""A chat's messages as a tree: the branch that a tab shows, siblings, and comparisons.

All functions are pure, and take time in proportion to the number of messages. The messages come in
order of creation, as the store returns them: a parent before its children.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from web.chats.store.models import Chat, ChatMessage

Messages = Mapping[str, ChatMessage]  # by id
Siblings = dict[tuple[str | None, str], list[ChatMessage]]  # by parent and role


@dataclass(frozen=True)
class MessageTree:
    """The chat that a tab shows, as it was when it was read.

    `comparison` is the one to show, where a question has several. `other_replica` says that another
    replica makes a reply in the chat.
    """

    chat: Chat
    messages: dict[str, ChatMessage]
    branch: list[ChatMessage]
    comparison: str | None = None
    other_replica: bool = False

    @cached_property
    def siblings(self) -> Siblings:
        """The messages by their place in the tree; see `siblings_by_place`."""
        return siblings_by_place(self.messages)

    @property
    def last(self) -> ChatMessage | None:
        """The last message of the branch."""
        return self.branch[-1] if self.branch else None

    @property
    def compared(self) -> list[ChatMessage]:
        """The replies side by side at the end of the branch, while the user has chosen none."""
        if self.last is None or self.last.role != "user":
            return []
        return compared_replies(self.messages, self.last.id, self.comparison)


def path_to(messages: Messages, head: str | None) -> list[ChatMessage]:
    """Returns the messages from the first to `head`; a missing parent or a circle ends the path."""
    path: dict[str, ChatMessage] = {}
    while head is not None and head in messages and head not in path:
        path[head] = messages[head]
        head = path[head].parent
    return list(reversed(path.values()))


def siblings_by_place(messages: Messages) -> Siblings:
    """Returns all messages by parent and role: those of one list are branches of one place."""
    siblings: Siblings = {}
    for message in messages.values():
        siblings.setdefault((message.parent, message.role), []).append(message)
    return siblings


def newest_leaf(messages: Messages, message: str) -> str:
    """Returns the latest message below `message`, where its reader stopped, or itself."""
    below, newest = {message}, message
    for other in messages.values():
        if other.parent in below:
            below.add(other.id)
            newest = other.id
    return newest


def compared_replies(
    messages: Messages, question: str, comparison: str | None = None
) -> list[ChatMessage]:
    """Returns the replies to `question` of one comparison; of the latest one, if it has none of
    `comparison`."""
    compared = [m for m in messages.values() if m.parent == question and m.comparison]
    chosen = [reply for reply in compared if reply.comparison == comparison]
    return chosen or [reply for reply in compared if reply.comparison == compared[-1].comparison]
