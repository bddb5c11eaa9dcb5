"""Actions on chats: open, search, rename, delete, import; and on branches and comparisons."""

from __future__ import annotations

from web.chats.chat_service import ChatService
from web.chats.tab_sessions import TabSession
from web.chats.transfer.import_file import read_chats
from web.chats.transfer.message_content import LeftOutCounts
from web.ui.action_result import ActionResult
from web.ui.request_models import ById, Empty, Rename, Search, Vote

MAX_QUERY = 200  # characters of a search
TIE = "tie"


class ChatActions:
    """The visitor's chats, and what a tab shows of one."""

    def __init__(self, chat_service: ChatService) -> None:
        self._chat_service = chat_service
        self._chat_list = chat_service.chat_list
        self._shown_chat = chat_service.shown_chat

    def new_chat(self, tab: TabSession, _: Empty) -> ActionResult:
        """Shows a new chat. Replies in other chats go on."""
        self._chat_list.open(tab, None)
        return ActionResult(loaded_chat="")

    def open(self, tab: TabSession, body: ById) -> ActionResult:
        """Shows a chat, and its settings in the controls."""
        return ActionResult(self._chat_list.open(tab, body.id))

    def search(self, tab: TabSession, body: Search) -> None:
        """Lists only the chats that contain a text."""
        tab.query = body.text[:MAX_QUERY]
        tab.request_redraw()

    def rename(self, tab: TabSession, body: Rename) -> None:
        """Gives a chat another title."""
        self._chat_list.rename(tab, body.id, body.title)

    def delete(self, tab: TabSession, body: ById) -> None:
        """Deletes a chat; `restore` brings it back for a while."""
        self._chat_list.delete(tab, body.id)

    def restore(self, tab: TabSession, body: ById) -> ActionResult:
        """Brings back the chat that was deleted last, and shows it."""
        return ActionResult(self._chat_list.restore(tab, body.id))

    def import_chats(self, tab: TabSession, text: str, more: bool) -> ActionResult:
        """Imports the chats of a file, or of a part of it with `more` to come.

        The last chat of the last part is shown.
        """
        owner, left_out = tab.owner.id, LeftOutCounts()
        with self._chat_service.limits.reserve_quota(tab, len(text)):
            chats = self._chat_service.store.import_chats(owner, read_chats(text, left_out))
        self._chat_service.tab_sessions.notify_changed(owner)
        if more:
            return ActionResult(left_out=left_out)
        return ActionResult(self._chat_list.open(tab, chats[-1].id), left_out=left_out)

    def show_branch(self, tab: TabSession, body: ById) -> None:
        """Shows another version of a message."""
        self._shown_chat.show_branch(tab, body.id)

    def show_comparison(self, tab: TabSession, body: ById) -> None:
        """Shows the comparison that a reply belongs to."""
        self._shown_chat.show_comparison(tab, body.id)

    def choose(self, tab: TabSession, body: ById) -> None:
        """Continues the chat with one of the compared replies."""
        self._shown_chat.choose(tab, body.id)

    def vote(self, tab: TabSession, body: Vote) -> None:
        """Stores which of the compared replies is best."""
        winner = None if body.winner == TIE else body.winner
        self._shown_chat.vote(tab, body.comparison, winner)
