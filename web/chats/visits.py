"""The open tabs: which chat each shows, and what it has not shown yet."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from web.chats.identity import Owner
from web.chats.records import Chat
from web.i18n import DEFAULT


@dataclass(frozen=True)
class Reading:
    """An adapter that reads a chat ahead: how many tokens, and how many of them it knew."""

    adapter: str
    tokens: int
    known: int = 0
    done: bool = False


@dataclass
class Visit:
    """One tab. Whoever changes something marks what is stale; the tab's watcher draws it.

    `removed` is the chat that was deleted last, while it can be brought back.
    """

    owner: Owner
    guest: bool = False  # came through the public link
    chat: str | None = None
    language: str = DEFAULT
    query: str = ""
    removed: Chat | None = None
    reading: Reading | None = None
    stale: bool = True  # the log and the side bar
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def renew(self) -> None:
        """Have everything drawn again."""
        self.stale = True
        self.wake.set()


class Visits:
    """Every tab by its session. Used on the server's event loop only."""

    def __init__(self) -> None:
        self._by_session: dict[str, Visit] = {}

    def of(self, session: str, owner: Owner, guest: bool = False) -> Visit:
        """The session's tab; a new one the first time."""
        return self._by_session.setdefault(session, Visit(owner, guest))

    def leave(self, session: str) -> None:
        """The tab is closed."""
        self._by_session.pop(session, None)

    def changed(self, owner: str) -> None:
        """One of the owner's chats is not what it was."""
        for visit in self._watching(owner):
            visit.renew()

    def spoke(self, owner: str, chat: str) -> None:
        """A reply in this chat has grown, or moved in its queue."""
        for visit in self._watching(owner):
            if visit.chat == chat:
                visit.wake.set()

    def _watching(self, owner: str) -> Iterator[Visit]:
        return (v for v in tuple(self._by_session.values()) if v.owner.id == owner)
