"""The open tabs: which chat each shows, and what it has not shown yet."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from web.chats.identity import Owner
from web.chats.news import Hear, News, Nobody, Others, which, whose
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
    """One tab. Whoever changes something sets the event; the tab's watcher draws it.

    `removed` is the chat that was deleted last, while it can be brought back.
    """

    owner: Owner
    guest: bool = False  # came through the public link
    chat: str | None = None
    compared: str | None = None  # the comparison that was asked for, where there are several
    language: str = DEFAULT
    query: str = ""
    removed: Chat | None = None
    lost: bool = False  # nobody draws it: the server was started anew, or took the tab for closed
    closed: bool = False
    reading: Reading | None = None
    reader: asyncio.Task[None] | None = None  # makes `reading`
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # the chats
    heard: asyncio.Event = field(default_factory=asyncio.Event)  # what is said
    relabelled: asyncio.Event = field(default_factory=asyncio.Event)  # the language

    def renew(self) -> None:
        """Have the chats drawn again."""
        self.changed.set()
        self.heard.set()

    def stop_reading(self) -> None:
        """Something else is of more importance than what is read ahead."""
        if self.reader is not None:
            self.reader.cancel()
        self.reader = self.reading = None


class Visits:
    """Every tab by its session. Used on the server's event loop only.

    Tabs can be at `others`, too: they are told what changes here.
    """

    def __init__(self, others: Others | None = None) -> None:
        self._visits: dict[tuple[str, str, bool], Visit] = {}
        self._others = others or Nobody()

    def find(self, session: str, owner: Owner, guest: bool = False) -> Visit:
        """The session's tab; for one that is not open here, a lost one that nobody keeps."""
        known = self._visits.get((session, owner.id, guest))
        return known or Visit(owner, guest, lost=True)

    def of(self, session: str, owner: Owner, guest: bool = False) -> Visit:
        """The session's tab, which is open from now on.

        A page makes its session's name up. So nobody becomes somebody else by it, nor does a guest
        become one who is not: whoever sends another's session has a tab of their own.
        """
        return self._visits.setdefault((session, owner.id, guest), Visit(owner, guest))

    def leave(self, session: str) -> None:
        """The tab is closed: whatever waits for news of it ends."""
        for key in [key for key in self._visits if key[0] == session]:
            visit = self._visits.pop(key)
            visit.closed = True
            visit.stop_reading()
            visit.renew()
            visit.relabelled.set()

    def changed(self, owner: str) -> None:
        """One of the owner's chats is not what it was."""
        for visit in self._watching(owner):
            visit.renew()
        self._others.tell(News(whose(owner)))

    def saved(self, owner: str, chat: str) -> None:
        """What the tabs here know already of a reply in this chat is in the store now."""
        self._others.tell(News(whose(owner), chat=which(chat), grew=True))

    def follow(self, hear: Hear) -> None:
        """Have `hear` called with what the others tell from now on."""
        self._others.follow(hear)

    def changed_elsewhere(self, news: News | None) -> None:
        """As `changed`, but another replica's doing; None where that may be anybody's. A reply that
        only grew is of no interest to who looks at something else."""
        for visit in tuple(self._visits.values()):
            if news is not None:
                if news.owner != whose(visit.owner.id):
                    continue
                if news.grew and news.chat != which(visit.chat or ""):
                    continue
            visit.renew()

    def spoke(self, owner: str, chat: str) -> None:
        """A reply in this chat has grown, or moved in its queue."""
        for visit in self._watching(owner):
            if visit.chat == chat:
                visit.heard.set()

    def _watching(self, owner: str) -> Iterator[Visit]:
        return (v for v in tuple(self._visits.values()) if v.owner.id == owner)
