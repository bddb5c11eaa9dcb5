"""The open tabs: the chat that each shows, and what has changed since it was last updated."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from model.errors import LinlyError
from model.translations import DEFAULT
from web.chats.cluster.notifications import (
    EventHandler,
    NullBus,
    ReplicaBus,
    ReplicaEvent,
    chat_digest,
    owner_digest,
)
from web.chats.identity import Owner
from web.chats.store.models import Chat
from web.workers import LoopCaller

MAX_TABS = 4_000  # on this server
MAX_TABS_OF_VISITOR = 100
MAX_TABS_OF_ADDRESS = 1_000  # unless it is this machine's
MAX_TABS_OF_GUESTS = 1_000  # of all visitors of the public link


@dataclass(frozen=True)
class PrefillProgress:
    """Prefill of a chat with an adapter (None: the base): the tokens of the chat, and how many of
    them were cached, once it is `done`."""

    adapter: str | None
    tokens: int
    cached_tokens: int = 0
    done: bool = False


class ControlOrder:
    """Numbers a tab's updates of controls, which come by its stream and in responses to actions.

    A response may arrive after an update that the stream has made later: the page drops what is
    older than what it shows. In turn, the stream sends once more what a response has changed. Safe
    to call from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0
        self._changed: set[int] = set()

    def next_response(self, controls: Iterable[int]) -> int:
        """Returns the number of a response; call it when the response is complete."""
        with self._lock:
            self._changed.update(controls)
            self._last += 1
            return self._last

    def next_update(self) -> tuple[int, set[int]]:
        """Returns the number of the stream's next update, and the controls that responses have
        changed since its last one; call it before the update's state is read."""
        with self._lock:
            changed, self._changed = self._changed, set()
            self._last += 1
            return self._last, changed


@dataclass
class TabSession:
    """One tab. A change sets an event; the tab's stream then sends what is new.

    `shown_comparison` is the one that the user asked for, where a question has several.
    `deleted_chat` is the chat that was deleted last, while it can be restored. A `lost` tab has no
    stream on this server: the server was restarted, or the tab closed. `address` is the client's,
    where tabs are counted by it. Fields may be set from worker threads; events and tasks belong to
    the event loop.
    """

    owner: Owner
    guest: bool = False  # came through the public link
    id: str = ""
    may_train: bool = False
    chat: str | None = None
    shown_comparison: str | None = None
    language: str = DEFAULT
    query: str = ""
    deleted_chat: Chat | None = None
    lost: bool = False
    closed: bool = False
    prefill_progress: PrefillProgress | None = None
    prefill_task: asyncio.Task[None] | None = None
    chats_changed: asyncio.Event = field(default_factory=asyncio.Event)
    reply_changed: asyncio.Event = field(default_factory=asyncio.Event)
    controls_changed: asyncio.Event = field(default_factory=asyncio.Event)  # choices and labels
    control_order: ControlOrder = field(default_factory=ControlOrder)
    on_loop: LoopCaller = field(default_factory=LoopCaller)
    address: str = ""

    def request_redraw(self) -> None:
        """Has the chats sent again."""
        self.on_loop(self._set_changed)

    def refresh_controls(self) -> None:
        """Has the controls sent again."""
        self.on_loop(self.controls_changed.set)

    def cancel_prefill(self) -> None:
        """Cancels a prefill ahead, as something else is more important now."""
        self.on_loop(self._cancel_prefill)

    def _set_changed(self) -> None:
        self.chats_changed.set()
        self.reply_changed.set()

    def _cancel_prefill(self) -> None:
        if self.prefill_task is not None:
            self.prefill_task.cancel()
        self.prefill_task = self.prefill_progress = None


class TooManyTabsError(LinlyError):
    """A visitor, or all of them together, have the maximal number of tabs open."""

    http_status = 429
    code = "too_many_tabs"


class TabSessions:
    """Every open tab of this server, by an id that is made here.

    An owner may have tabs at other replicas, too: `replica_bus` tells those what changes here.
    """

    def __init__(
        self, replica_bus: ReplicaBus | None = None, on_loop: LoopCaller | None = None
    ) -> None:
        self._tabs: dict[str, TabSession] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._replica_bus = replica_bus or NullBus()
        self.on_loop = on_loop or LoopCaller()

    def __len__(self) -> int:
        return len(self._tabs)

    def __iter__(self) -> Iterator[TabSession]:
        return iter(tuple(self._tabs.values()))

    def open(self, owner: Owner, guest: bool = False, address: str = "") -> TabSession:
        """Returns a new tab.

        Raises:
            TooManyTabsError
        """
        self._check_room(owner, guest, address)
        tab = TabSession(
            owner, guest, secrets.token_urlsafe(16), on_loop=self.on_loop, address=address
        )
        self._tabs[tab.id] = tab
        self._counts.update(_counters(tab))
        return tab

    def get(self, tab_id: str, owner: Owner, guest: bool = False) -> TabSession:
        """Returns the visitor's tab of this id, or else a lost tab that is not stored.

        An id alone gives no access: for the id of another visitor's tab, a visitor gets a lost tab
        of their own.
        """
        tab = self._tabs.get(tab_id)
        # Without a cookie, the tab's id, which only this visitor got, identifies the visitor.
        same = tab is not None and (
            tab.owner == owner or not (tab.owner.persistent or owner.persistent)
        )
        if tab is not None and same and tab.guest == guest:
            return tab
        return TabSession(owner, guest, lost=True, on_loop=self.on_loop)

    def close(self, tab: TabSession) -> None:
        """Removes a tab."""
        if self._tabs.pop(tab.id, None) is None:
            return
        self._counts.subtract(_counters(tab))
        self._counts += Counter()  # drops those at zero
        tab.closed = True
        tab.cancel_prefill()

    def notify_changed(self, owner: str) -> None:
        """Tells all of the owner's tabs that one of their chats has changed."""
        for tab in self._of_owner(owner):
            tab.request_redraw()
        self._replica_bus.publish(ReplicaEvent(owner_digest(owner)))

    def notify_library_changed(self, owner: str) -> None:
        """Tells the owner's tabs here that their presets or prompts have changed."""
        for tab in self._of_owner(owner):
            tab.refresh_controls()

    def notify_saved(self, owner: str, chat: str) -> None:
        """Tells the other replicas that more of a reply in this chat is in the store."""
        event = ReplicaEvent(owner_digest(owner), chat=chat_digest(chat), grew=True)
        self._replica_bus.publish(event)

    def notify_progress(self, owner: str, chat: str) -> None:
        """Tells the tabs that show a chat that a reply in it has grown, or moved in its queue."""
        for tab in self._of_owner(owner):
            if tab.chat == chat:
                self.on_loop(tab.reply_changed.set)

    def subscribe(self, handler: EventHandler) -> None:
        """Has `handler` called with the events of other replicas from now on."""
        self._replica_bus.subscribe(handler)

    def notify_remote_change(self, event: ReplicaEvent | None) -> None:
        """Tells the tabs here about a change by another replica; None concerns every tab.

        A reply that only grew concerns the tabs that show its chat.
        """
        for tab in self:
            if event is not None:
                if event.owner != owner_digest(tab.owner.id):
                    continue
                if event.grew and event.chat != chat_digest(tab.chat or ""):
                    continue
            tab.request_redraw()

    def _of_owner(self, owner: str) -> Iterator[TabSession]:
        return (tab for tab in self if tab.owner.id == owner)

    def _check_room(self, owner: Owner, guest: bool, address: str) -> None:
        count = self._counts
        if count["owner", owner.id] >= MAX_TABS_OF_VISITOR:
            raise TooManyTabsError("too_many_tabs_of_visitor")
        full = len(self) >= MAX_TABS or (guest and count["guests", ""] >= MAX_TABS_OF_GUESTS)
        if full or (address and count["address", address] >= MAX_TABS_OF_ADDRESS):
            raise TooManyTabsError("too_many_tabs")


def _counters(tab: TabSession) -> list[tuple[str, str]]:
    """Returns the counters that a tab adds to."""
    counters = [("owner", tab.owner.id)]
    if tab.address:
        counters.append(("address", tab.address))
    if tab.guest:
        counters.append(("guests", ""))
    return counters
