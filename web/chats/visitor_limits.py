"""Adapters and amounts that a visitor may use: those of the public link have limits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from model.errors import RequestError
from model.serving.manager import ModelManager
from web.chats.store.models import ChatSettings
from web.chats.tab_sessions import TabSession
from web.public_link.limits import PublicLink


class VisitorLimits:
    """Checks and counts what visitors of the public link use; None: there is no link."""

    def __init__(self, manager: ModelManager, link: PublicLink | None = None) -> None:
        self._manager = manager
        self.link = link

    def adapter_exists(self, adapter: str | None) -> bool:
        """Whether there is an adapter, broken or not; True while the model loads. None is the base,
        which always exists."""
        names = {cached.name for cached in self._manager.cached_adapters()}
        return not adapter or adapter in names or not self._manager.status().ready

    def check_adapter_exists(self, settings: ChatSettings) -> None:
        """
        Raises:
            RequestError: there is no such adapter any more.
        """
        if not self.adapter_exists(settings.adapter):
            raise RequestError("chat_adapter_gone", adapter=settings.adapter)

    def may_use_adapter(self, tab: TabSession, adapter: str | None) -> bool:
        """Whether the visitor may use an adapter; None is the base, which a link may exclude."""
        return self.link is None or not tab.guest or self.link.allows(adapter)

    @contextmanager
    def reserve_quota(self, tab: TabSession, characters: int) -> Iterator[None]:
        """Counts what a block stores besides questions, as chats from a file or a prompt.

        Raises:
            LinkLimitError: it exceeds the link's quota; nothing was stored.
        """
        link = self.link if tab.guest else None
        if link is not None:
            link.check_quota(characters)
        yield
        if link is not None:
            link.add_stored(characters)

    @contextmanager
    def count_replies(self, tab: TabSession, *requested: ChatSettings) -> Iterator[None]:
        """Counts the replies that a block begins, one for each of the settings. They are checked
        before anything has happened.

        Raises:
            LinkLimitError: there are too many, or an adapter is not for visitors of the link.
        """
        link = self.link if tab.guest else None
        if link is not None:
            link.check(tab.owner.id, [settings.adapter for settings in requested])
        yield
        if link is not None:
            link.add_replies(tab.owner.id, len(requested))
        tab.cancel_prefill()
