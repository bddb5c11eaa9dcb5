"""A visitor's list of chats: opens, renames, deletes and restores them, and saves settings."""

from __future__ import annotations

from web.chats.reply_generator import ReplyGenerator
from web.chats.store.chat_store import ChatStore, UnknownChatError
from web.chats.store.models import ChatSettings
from web.chats.tab_sessions import TabSession, TabSessions


class ChatList:
    """Operations on the chats in the side bar, for a `TabSession`."""

    def __init__(
        self, store: ChatStore, tab_sessions: TabSessions, reply_generator: ReplyGenerator
    ) -> None:
        self._store = store
        self._tab_sessions = tab_sessions
        self._reply_generator = reply_generator

    def open(self, tab: TabSession, chat: str | None) -> ChatSettings | None:
        """Shows a chat, or a new one (None), and returns its settings.

        Raises:
            UnknownChatError: there is no such chat, or it is another owner's.
        """
        found = self._store.chat(tab.owner.id, chat) if chat else None
        tab.chat = found.id if found else None
        tab.shown_comparison = None
        tab.cancel_prefill()
        tab.request_redraw()
        return found.settings if found else None

    def rename(self, tab: TabSession, chat: str, title: str) -> None:
        """Gives a chat the title that the user wrote."""
        self._store.rename(tab.owner.id, chat, title)
        self._tab_sessions.notify_changed(tab.owner.id)

    def delete(self, tab: TabSession, chat: str) -> None:
        """Deletes a chat. The tab can restore it until it deletes another one."""
        deleted = self._store.chat(tab.owner.id, chat)
        self._store.delete(tab.owner.id, chat)
        tab.deleted_chat = deleted
        self._tab_sessions.notify_changed(tab.owner.id)
        self._reply_generator.stop(tab.owner.id, chat)

    def restore(self, tab: TabSession, chat: str) -> ChatSettings | None:
        """Restores a deleted chat. A tab that shows no chat opens it, and gets its settings."""
        self._store.restore(tab.owner.id, chat)
        tab.deleted_chat = None
        self._tab_sessions.notify_changed(tab.owner.id)
        return self.open(tab, chat) if tab.chat is None else None

    def settings(self, tab: TabSession) -> ChatSettings | None:
        """Returns the settings of the tab's chat; None for a chat that has not begun."""
        if tab.chat is None:
            return None
        try:
            return self._store.chat(tab.owner.id, tab.chat).settings
        except UnknownChatError:
            return None

    def save_settings(
        self, tab: TabSession, chat: str, settings: ChatSettings
    ) -> ChatSettings | None:
        """Saves a chat's settings, and returns the ones before, if there is such a chat."""
        try:
            before = self._store.chat(tab.owner.id, chat).settings
        except UnknownChatError:  # it has not begun, or was deleted
            return None
        if before != settings:
            self._store.set_settings(tab.owner.id, chat, settings)
            tab.request_redraw()
        return before
