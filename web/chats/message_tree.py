"""A chat as it is looked at: its tree, read once, and the branch that is shown."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from web.chats import branches
from web.chats.store.models import Chat, ChatMessage


@dataclass(frozen=True)
class MessageTree:
    """The chat that a tab shows, read once."""

    chat: Chat
    messages: dict[str, ChatMessage]
    branch: list[ChatMessage]
    wanted: str | None = None  # the comparison to show, where one question had several
    elsewhere: bool = False  # another server is making a reply in it

    @cached_property
    def families(self) -> dict[tuple[str | None, str], list[ChatMessage]]:
        """Siblings by their place; see `branches.families`."""
        return branches.families(self.messages)

    @property
    def last(self) -> ChatMessage | None:
        return self.branch[-1] if self.branch else None

    @property
    def compared(self) -> list[ChatMessage]:
        """The replies that stand side by side at the end, while none of them is chosen."""
        if self.last is None or self.last.role != "user":
            return []
        return branches.comparison(self.messages, self.last.id, self.wanted)
