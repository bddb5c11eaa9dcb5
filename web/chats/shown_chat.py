"""The chat that a tab shows: reads it, moves between its branches, and saves votes.

Ids from a page are only names: they are looked up among the visitor's own chats.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from model.errors import RequestError
from web.chats.message_tree import MessageTree, newest_leaf, path_to
from web.chats.reply_generator import ReplyGenerator
from web.chats.store.chat_store import ChatStore, UnknownChatError
from web.chats.store.errors import ReplyBusyError
from web.chats.store.models import ChatMessage, MessageState, Vote
from web.chats.tab_sessions import TabSession, TabSessions


class ShownChat:
    """Operations on the chat that a `TabSession` shows.

    `mark_interrupted` marks replies of servers that have died as interrupted.
    """

    def __init__(
        self,
        store: ChatStore,
        tab_sessions: TabSessions,
        reply_generator: ReplyGenerator,
        mark_interrupted: Callable[[], object],
    ) -> None:
        self._store = store
        self._tab_sessions = tab_sessions
        self._reply_generator = reply_generator
        self._mark_interrupted = mark_interrupted

    def message_tree(self, tab: TabSession) -> MessageTree | None:
        """Returns the tab's chat; None for a chat that has not begun, or is gone."""
        if tab.chat is None:
            return None
        shown = tab.chat
        try:
            chat = self._store.chat(tab.owner.id, shown)
        except UnknownChatError:
            if tab.chat == shown:
                tab.chat = None
            return None
        messages = self._store.messages(tab.owner.id, chat.id)
        if other_replica := self._has_other_replica(messages):
            self._mark_interrupted()  # if that replica has died
            messages = self._store.messages(tab.owner.id, chat.id)
            other_replica = self._has_other_replica(messages)
        branch = path_to(messages, chat.head)
        return MessageTree(chat, messages, branch, tab.shown_comparison, other_replica)

    def _has_other_replica(self, messages: dict[str, ChatMessage]) -> bool:
        """Whether another replica makes some of the replies, or made them when it died."""
        return any(
            m.state is MessageState.STREAMING and not self._reply_generator.is_generating(m.id)
            for m in messages.values()
        )

    def idle_tree(self, tab: TabSession) -> MessageTree | None:
        """Returns the tab's chat, in which no reply is in the making.

        Raises:
            ReplyBusyError: one is.
        """
        if tab.chat and self._reply_generator.active_in_chat(tab.chat):
            raise ReplyBusyError
        tree = self.message_tree(tab)
        if tree and tree.other_replica:
            raise ReplyBusyError
        return tree

    def message(self, tab: TabSession, message: str) -> ChatMessage:
        """Returns a message of the tab's chat.

        Raises:
            UnknownChatError
        """
        return self._chat_and_message(tab, message)[1]

    def question_and_reply(self, tab: TabSession, message: str) -> tuple[str, ChatMessage]:
        """Returns a reply of the tab's chat, after the id of the question that it answers.

        Raises:
            UnknownChatError: there is no such message, or it is not a reply.
        """
        reply = self.message(tab, message)
        if reply.role != "assistant" or reply.parent is None:
            raise UnknownChatError
        return reply.parent, reply

    def last_question(self, tab: TabSession) -> str:
        """Returns the id of the last question of the branch.

        Raises:
            RequestError: there is none.
        """
        tree = self.message_tree(tab)
        questions = [m.id for m in tree.branch if m.role == "user"] if tree else []
        if not questions:
            raise RequestError("no_question_yet")
        return questions[-1]

    def best_compared(self, tab: TabSession, tree: MessageTree) -> ChatMessage:
        """Returns the reply of a comparison that won the vote, or the first one."""
        votes = self._store.votes(tab.owner.id, tree.chat.id)
        winners = {vote.comparison: vote.winner for vote in votes}
        best = (r for r in tree.compared if winners.get(r.comparison or "") == r.id)
        return next(best, tree.compared[0])

    def show_branch(self, tab: TabSession, message: str) -> None:
        """Shows the branch that leads through a message, to its newest leaf."""
        chat, chosen = self._chat_and_message(tab, message)
        messages = self._store.messages(tab.owner.id, chat)
        leaf = messages[newest_leaf(messages, chosen.id)]
        undecided = leaf.comparison is not None and leaf.id != chosen.id
        self._set_head(tab, chat, leaf.parent if undecided else leaf.id)

    def show_comparison(self, tab: TabSession, message: str) -> None:
        """Shows the comparison that a reply is part of."""
        chat, reply = self._chat_and_message(tab, message)
        if reply.comparison and reply.parent:
            tab.shown_comparison = reply.comparison
            self._set_head(tab, chat, reply.parent)

    def choose(self, tab: TabSession, message: str) -> None:
        """Continues with one of the replies side by side."""
        chat, _ = self._chat_and_message(tab, message)
        self._set_head(tab, chat, message)

    def vote(self, tab: TabSession, comparison: str, winner: str | None) -> None:
        """Saves which reply of a comparison is the best; None for a tie."""
        if winner is not None:
            self.message(tab, winner)
        vote = Vote(comparison, shown_chat_id(tab), winner, time.time())
        self._store.vote(tab.owner.id, vote)
        self._tab_sessions.notify_changed(tab.owner.id)

    def _chat_and_message(self, tab: TabSession, message: str) -> tuple[str, ChatMessage]:
        chat, found = self._store.message(tab.owner.id, message)
        if chat != tab.chat:
            raise UnknownChatError
        return chat, found

    def _set_head(self, tab: TabSession, chat: str, message: str | None) -> None:
        self._store.set_head(tab.owner.id, chat, message)
        self._tab_sessions.notify_changed(tab.owner.id)


def shown_chat_id(tab: TabSession) -> str:
    """Returns the id of the chat that the tab shows.

    Raises:
        UnknownChatError: it shows none.
    """
    if tab.chat is None:
        raise UnknownChatError
    return tab.chat
