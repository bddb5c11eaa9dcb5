"""The open tabs: which chat each shows, and what it has not shown yet."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from model.translations import DEFAULT
from model.types import LinlyError
from web.chats.cluster.notifications import (
    Hear,
    NullBus,
    ReplicaBus,
    ReplicaEvent,
    chat_digest,
    owner_digest,
)
from web.chats.identity import Owner
from web.chats.store.models import Chat
from web.workers import LoopCaller

MAX_TABS = 4_000  # that are open here
MAX_TABS_OF_VISITOR = 100
MAX_TABS_OF_ADDRESS = 1_000  # unless it is this machine's
MAX_TABS_OF_GUESTS = 1_000  # of the public link, all together


@dataclass(frozen=True)
class PrefillProgress:
    """An adapter that reads a chat ahead: how many tokens, and how many of them it knew."""

    adapter: str
    tokens: int
    known: int = 0
    done: bool = False


@dataclass
class TabSession:
    """One tab. A change sets an event; the tab's stream then sends what is new.

    `removed` is the chat that was deleted last, while it can be brought back. Fields may be set
    from worker threads; events and tasks belong to the event loop.
    """

    owner: Owner
    guest: bool = False  # came through the public link
    id: str = ""
    may_train: bool = False
    chat: str | None = None
    compared: str | None = None  # the comparison that was asked for, where there are several
    language: str = DEFAULT
    query: str = ""
    removed: Chat | None = None
    lost: bool = False  # it has no stream here: the server was started anew, or the tab closed
    closed: bool = False
    reading: PrefillProgress | None = None
    reader: asyncio.Task[None] | None = None  # makes `reading`
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # the chats
    heard: asyncio.Event = field(default_factory=asyncio.Event)  # what is said
    offered: asyncio.Event = field(default_factory=asyncio.Event)  # the controls: choices, labels
    on_loop: LoopCaller = field(default_factory=LoopCaller)
    address: str = ""  # of the client, where tabs are counted by it

    def request_redraw(self) -> None:
        """Have the chats drawn again."""
        self.on_loop(self._renew)

    def offer(self) -> None:
        """Have the controls brought up to date."""
        self.on_loop(self.offered.set)

    def stop_reading(self) -> None:
        """Something else is of more importance than what is read ahead."""
        self.on_loop(self._stop_reading)

    def _renew(self) -> None:
        self.changed.set()
        self.heard.set()

    def _stop_reading(self) -> None:
        if self.reader is not None:
            self.reader.cancel()
        self.reader = self.reading = None


class TooManyTabsError(LinlyError):
    """A visitor, or all of them, have as many tabs open as there may be."""

    http_status = 429
    code = "too_many_tabs"


class TabSessions:
    """Every open tab, by an id that is made here.

    Tabs can be at `others`, too: they are told what changes here.
    """

    def __init__(self, others: ReplicaBus | None = None, on_loop: LoopCaller | None = None) -> None:
        self._visits: dict[str, TabSession] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._others = others or NullBus()
        self.on_loop = on_loop or LoopCaller()

    def __len__(self) -> int:
        return len(self._visits)

    def open(self, owner: Owner, guest: bool = False, address: str = "") -> TabSession:
        """A tab that is open from now on.

        Raises:
            TooManyTabsError
        """
        self._check_room(owner, guest, address)
        visit = TabSession(owner, guest, secrets.token_urlsafe(16), on_loop=self.on_loop)
        self._visits[visit.id] = visit
        self._counts.update(_counted(visit, address))
        visit.address = address
        return visit

    def get(self, tab: str, owner: Owner, guest: bool = False) -> TabSession:
        """The visitor's tab of this id; where they have none, a lost one that is not kept.

        An id opens nothing by itself: with that of another visitor's tab, one has a lost tab of
        one's own.
        """
        known = self._visits.get(tab)
        # Without a cookie, the id (told to this visitor alone) is all that a visitor is known by.
        same = known is not None and (known.owner == owner or not (known.owner.kept or owner.kept))
        if known is not None and same and known.guest == guest:
            return known
        return TabSession(owner, guest, lost=True, on_loop=self.on_loop)

    def close(self, visit: TabSession) -> None:
        """The tab is closed, and nothing of it stays."""
        if self._visits.pop(visit.id, None) is None:
            return
        self._counts.subtract(_counted(visit, visit.address))
        self._counts += Counter()  # drops those at zero
        visit.closed = True
        visit.stop_reading()

    def __iter__(self) -> Iterator[TabSession]:
        return iter(tuple(self._visits.values()))

    def changed(self, owner: str) -> None:
        """One of the owner's chats is not what it was."""
        for visit in self._of(owner):
            visit.request_redraw()
        self._others.tell(ReplicaEvent(owner_digest(owner)))

    def library_changed(self, owner: str) -> None:
        """The owner's presets or prompts are not what they were."""
        for visit in self._of(owner):
            visit.offer()

    def notify_saved(self, owner: str, chat: str) -> None:
        """What the tabs here know already of a reply in this chat is in the store now."""
        self._others.tell(ReplicaEvent(owner_digest(owner), chat=chat_digest(chat), grew=True))

    def follow(self, hear: Hear) -> None:
        """Have `hear` called with what the others tell from now on."""
        self._others.follow(hear)

    def notify_remote_change(self, news: ReplicaEvent | None) -> None:
        """As `changed`, but another replica's doing; None where that may be anybody's. A reply that
        only grew is of no interest to who looks at something else."""
        for visit in self:
            if news is not None:
                if news.owner != owner_digest(visit.owner.id):
                    continue
                if news.grew and news.chat != chat_digest(visit.chat or ""):
                    continue
            visit.request_redraw()

    def notify_progress(self, owner: str, chat: str) -> None:
        """A reply in this chat has grown, or moved in its queue."""
        for visit in self._of(owner):
            if visit.chat == chat:
                self.on_loop(visit.heard.set)

    def _of(self, owner: str) -> Iterator[TabSession]:
        return (visit for visit in self if visit.owner.id == owner)

    def _check_room(self, owner: Owner, guest: bool, address: str) -> None:
        count = self._counts
        if count["owner", owner.id] >= MAX_TABS_OF_VISITOR:
            raise TooManyTabsError("You have too many tabs of this page open", "Close some.")
        full = len(self) >= MAX_TABS or (guest and count["guests", ""] >= MAX_TABS_OF_GUESTS)
        if full or (address and count["address", address] >= MAX_TABS_OF_ADDRESS):
            raise TooManyTabsError("Too many tabs are open", "Try again later.")


def _counted(visit: TabSession, address: str) -> list[tuple[str, str]]:
    """What a tab counts towards."""
    counted = [("owner", visit.owner.id)]
    if address:
        counted.append(("address", address))
    if visit.guest:
        counted.append(("guests", ""))
    return counted
