"""The public link while it is open: until when, for how many messages, with which adapters.

Everything here is about visitors who come through the link; they are known by its port (see
`access`). Those on this machine and in its network are never counted.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from model.config.settings import Settings
from model.errors import LinlyError
from model.translations import LocalizedText

HOUR = 3600.0  # seconds
BASE = "base"  # how the list of adapters names the base
MAX_STORED_CHARS = 50_000_000  # characters that all visitors of a link may leave here unasked


class LinkLimitError(LinlyError):
    """A visitor of the link wants more than its owner allows."""

    http_status = 403
    code = "link_limit"


@dataclass(frozen=True)
class LinkRules:
    """What whoever opened the link allows. None: no limit, and every adapter.

    `messages` are replies for each visitor, `hours` the time from the opening on.
    """

    hours: float | None = None
    messages: int | None = None
    adapters: tuple[str, ...] | None = None

    @property
    def limits_use(self) -> bool:
        """Whether visitors may not have everything; then the API would lead around the limit."""
        return self.messages is not None or self.adapters is not None


def link_rules(settings: Settings) -> LinkRules:
    """From the flags."""
    return LinkRules(settings.share_hours or None, settings.share_messages, settings.share_adapters)


@dataclass
class PublicLink:
    """The link of this run. `address` is None until it is open, `problem` says why it is not.

    Args:
        close_tunnel: ends what leads here; called once the link is closed.
    """

    rules: LinkRules
    close_tunnel: Callable[[], None]
    passphrase: str | None = field(default=None, repr=False)
    clock: Callable[[], float] = time.time
    address: str | None = None
    problem: LocalizedText | None = None
    until: float | None = None
    revoked: bool = False
    _spent: Counter[str] = field(default_factory=Counter)
    _kept: int = 0

    def opened(self, address: str) -> None:
        """The tunnel is there: its time begins."""
        self.address = address
        if self.revoked:  # while it was asked for
            self.close_tunnel()
            return
        if self.rules.hours is None:
            return
        seconds = self.rules.hours * HOUR
        self.until = self.clock() + seconds
        timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), self.close_tunnel)
        timer.daemon = True
        timer.start()

    def revoke(self) -> None:
        """Close it for good; whoever comes through it is refused from now on."""
        self.revoked = True
        self.close_tunnel()

    @property
    def host(self) -> str:
        """The name in its address; "" while there is none."""
        return urlsplit(self.address or "").hostname or ""

    @property
    def closed(self) -> bool:
        """Whether its visitors are refused."""
        return self.revoked or (self.until is not None and self.clock() >= self.until)

    @property
    def visitors(self) -> int:
        """How many have asked for a reply."""
        return len(self._spent)

    @property
    def replies(self) -> int:
        """How many were made for them all."""
        return self._spent.total()

    def allows(self, adapter: str | None) -> bool:
        """Whether visitors may use an adapter; None is the base."""
        allowed = self.rules.adapters
        return allowed is None or (adapter or BASE) in allowed

    def default_adapter(self, has: Callable[[str], bool]) -> str:
        """An adapter that visitors may use, "" being the base: one that is there, if any is.

        Args:
            has: whether an adapter is there.
        """
        names = self.rules.adapters or (BASE,)
        return "" if BASE in names else next(filter(has, names), names[0])

    def check(self, visitor: str, adapters: Sequence[str | None]) -> None:
        """That a visitor may have a reply of each of these.

        Raises:
            LinkLimitError: they would be more than there are, or one is not to be used.
        """
        if self.closed:
            raise LinkLimitError("link_ended")
        for adapter in adapters:
            if not self.allows(adapter):
                shown = adapter or LocalizedText("the_base")
                names = self.rules.adapters or ()
                raise LinkLimitError("link_adapter_not_offered", adapter=shown, names=names)
        most = self.rules.messages
        if most is not None:
            _check_left(most, most - self._spent[visitor], len(adapters))

    def check_quota(self, characters: int) -> None:
        """That a visitor may leave so much here besides questions: chats from a file, or a prompt.
        By link and not by visitor, as whoever forgets their cookie is another one.

        Raises:
            LinkLimitError: it would be more than there is room for.
        """
        if self._kept + characters > MAX_STORED_CHARS:
            raise LinkLimitError(
                "link_storage_full",
            )

    def add_stored(self, characters: int) -> None:
        """Remember that a visitor has left so much."""
        self._kept += characters

    def add_replies(self, visitor: str, replies: int) -> None:
        """Remember that a visitor was given so many."""
        self._spent[visitor] += replies


def _check_left(most: int, left: int, wanted: int) -> None:
    if left <= 0:
        raise LinkLimitError(
            "link_replies_used_up",
            most=most,
        )
    if wanted > left:
        raise LinkLimitError("link_replies_too_few", replies=wanted, most=most, remaining=left)
