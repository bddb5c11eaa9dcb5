"""The public link's state and limits: how long it is open, replies per visitor, adapters.

The limits are for visitors through the link, whom its port identifies (see `access`). Visitors on
this machine and in its network have no limits.
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
BASE = "base"  # the base's name in --share_adapters
MAX_STORED_CHARS = 50_000_000  # characters of imports and prompts, from all visitors of a link


class LinkLimitError(LinlyError):
    """A visitor through the link exceeds its limits."""

    http_status = 403
    code = "link_limit"


@dataclass(frozen=True)
class LinkRules:
    """The limits that the operator has set. None means no limit, or all adapters.

    `messages` is the number of replies for each visitor, `hours` the time from the opening.
    """

    hours: float | None = None
    messages: int | None = None
    adapters: tuple[str, ...] | None = None

    @property
    def limits_use(self) -> bool:
        """Whether replies or adapters are limited; then the API must be closed, as it does not
        count."""
        return self.messages is not None or self.adapters is not None


def link_rules(settings: Settings) -> LinkRules:
    """Returns the limits in the settings."""
    return LinkRules(settings.share_hours or None, settings.share_messages, settings.share_adapters)


@dataclass
class PublicLink:
    """The public link. `address` is None until it is open; `problem` is why it could not be opened.

    Args:
        close_tunnel: called when the link is closed.
    """

    rules: LinkRules
    close_tunnel: Callable[[], None]
    passphrase: str | None = field(default=None, repr=False)
    clock: Callable[[], float] = time.time
    address: str | None = None
    problem: LocalizedText | None = None
    until: float | None = None
    revoked: bool = False
    _replies: Counter[str] = field(default_factory=Counter)  # by visitor
    _stored_chars: int = 0

    def opened(self, address: str) -> None:
        """Sets the tunnel's address, and starts the time limit."""
        self.address = address
        if self.revoked:  # before the tunnel was open
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
        """Closes the link for good: all requests through it are refused from now on."""
        self.revoked = True
        self.close_tunnel()

    @property
    def host(self) -> str:
        """The host name in the address; "" while there is none."""
        return urlsplit(self.address or "").hostname or ""

    @property
    def closed(self) -> bool:
        """Whether requests through the link are refused."""
        return self.revoked or (self.until is not None and self.clock() >= self.until)

    @property
    def visitors(self) -> int:
        """The number of visitors who have had a reply."""
        return len(self._replies)

    @property
    def replies(self) -> int:
        """The number of replies to all visitors."""
        return self._replies.total()

    def allows(self, adapter: str | None) -> bool:
        """Whether visitors may use an adapter; None is the base."""
        allowed = self.rules.adapters
        return allowed is None or (adapter or BASE) in allowed

    def default_adapter(self, has: Callable[[str], bool]) -> str | None:
        """Returns an adapter that visitors may use, None for the base; one that exists if possible.

        Args:
            has: whether an adapter exists.
        """
        names = self.rules.adapters or (BASE,)
        return None if BASE in names else next(filter(has, names), names[0])

    def check(self, visitor: str, adapters: Sequence[str | None]) -> None:
        """Checks that a visitor may have one reply of each of the adapters.

        Raises:
            LinkLimitError: the visitor has too few replies left, or may not use an adapter.
        """
        if self.closed:
            raise LinkLimitError("link_ended")
        for adapter in adapters:
            if not self.allows(adapter):
                shown = adapter or LocalizedText("the_base")
                names = self.rules.adapters or ()
                raise LinkLimitError("link_adapter_not_offered", adapter=shown, names=names)
        limit = self.rules.messages
        if limit is not None:
            _check_remaining(limit, limit - self._replies[visitor], len(adapters))

    def check_quota(self, characters: int) -> None:
        """Checks that a visitor may store more text besides questions: imported chats, or a prompt.

        The limit is for the link, not for a visitor: visitors become new ones by deleting their
        cookie.

        Raises:
            LinkLimitError: it would exceed MAX_STORED_CHARS.
        """
        if self._stored_chars + characters > MAX_STORED_CHARS:
            raise LinkLimitError("link_storage_full")

    def add_stored(self, characters: int) -> None:
        """Counts text that a visitor has stored."""
        self._stored_chars += characters

    def add_replies(self, visitor: str, replies: int) -> None:
        """Counts replies to a visitor."""
        self._replies[visitor] += replies


def _check_remaining(limit: int, remaining: int, replies: int) -> None:
    if remaining <= 0:
        raise LinkLimitError("link_replies_used_up", most=limit)
    if replies > remaining:
        raise LinkLimitError(
            "link_replies_too_few", replies=replies, most=limit, remaining=remaining
        )
