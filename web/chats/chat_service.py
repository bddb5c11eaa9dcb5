"""What a visitor can do with chats, independent of Gradio.

Ids from a page are only names: they are looked up among the visitor's own chats.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence

from model.errors import RequestError
from model.serving.manager import ModelManager
from web.chats.chat_list import ChatList
from web.chats.cluster.notifications import ReplicaEvent
from web.chats.reply_generator import ReplyGenerator
from web.chats.reproducibility import check_reproducible
from web.chats.shown_chat import ShownChat, shown_chat_id
from web.chats.store.chat_store import ChatStore
from web.chats.store.models import ChatMessage, ChatSettings, check_length, generate_title
from web.chats.tab_sessions import TabSession, TabSessions
from web.chats.visitor_limits import VisitorLimits
from web.public_link.limits import PublicLink


class ChatService:
    """Begins and ends replies in the chat that a `TabSession` shows.

    `shown_chat` reads that chat and moves between its branches, `chat_list` has the visitor's
    chats, and `limits` those of the public link. All operations read and write the store, so they
    run in worker threads; those of one visitor run one after another (see `web.workers`).

    Args:
        mark_interrupted: marks replies of servers that have died as interrupted.
    """

    def __init__(
        self,
        manager: ModelManager,
        store: ChatStore,
        tab_sessions: TabSessions,
        reply_generator: ReplyGenerator,
        link: PublicLink | None = None,
        mark_interrupted: Callable[[], object] = lambda: None,
    ) -> None:
        self.manager = manager
        self.store = store
        self.tab_sessions = tab_sessions
        self.reply_generator = reply_generator
        self.limits = VisitorLimits(manager, link)
        self.shown_chat = ShownChat(store, tab_sessions, reply_generator, mark_interrupted)
        self.chat_list = ChatList(store, tab_sessions, reply_generator)
        self._mark_interrupted = mark_interrupted

    def on_replica_event(self, event: ReplicaEvent | None) -> None:
        """Handles an event of another replica; None: any event may have been missed."""
        if event is not None and event.stop:
            self.reply_generator.stop_matching(event)
        else:
            self.tab_sessions.notify_remote_change(event)

    def send(self, tab: TabSession, text: str, settings: ChatSettings) -> None:
        """Adds a question to the tab's chat, or to a new one, and begins the reply."""
        self.limits.check_adapter_exists(settings)
        with self.limits.count_replies(tab, settings):
            question = self._ask(tab, text, settings)
            self._begin(tab, question, settings)

    def compare(
        self,
        tab: TabSession,
        text: str,
        rivals: Sequence[ChatSettings],
        settings: ChatSettings | None = None,
    ) -> None:
        """Begins a reply by each of the rivals, side by side; without text, to the last question.

        The chat itself keeps `settings`, or begins with those of the first rival.
        """
        ask_again = not text.strip()
        comparison = uuid.uuid4().hex
        with self.limits.count_replies(tab, *rivals):
            chat_settings = settings or rivals[0]
            question = (
                self.shown_chat.last_question(tab)
                if ask_again
                else self._ask(tab, text, chat_settings)
            )
            for rival in rivals:
                self._begin(tab, question, rival, comparison)
        tab.shown_comparison = None
        self.store.set_head(tab.owner.id, shown_chat_id(tab), question)
        self.tab_sessions.notify_changed(tab.owner.id)

    def edit(self, tab: TabSession, message: str, text: str, settings: ChatSettings) -> None:
        """Adds another version of a question, as a branch beside it, and begins the reply."""
        before = self.shown_chat.message(tab, message)
        if before.role != "user" or not text.strip():
            raise RequestError("nothing_to_ask")
        self.limits.check_adapter_exists(settings)
        with self.limits.count_replies(tab, settings):
            self.shown_chat.idle_tree(tab)
            question = self._add_question(tab, text, before.parent)
            self._begin(tab, question, settings)

    def regenerate(self, tab: TabSession, message: str | None, settings: ChatSettings) -> None:
        """Begins another reply as a branch beside one; None means the last one of the branch."""
        if message is None:
            question = self.shown_chat.last_question(tab)
        else:
            question, _ = self.shown_chat.question_and_reply(tab, message)
        self.limits.check_adapter_exists(settings)
        with self.limits.count_replies(tab, settings):
            self._begin(tab, question, settings)

    def rerun_exactly(self, tab: TabSession, message: str) -> None:
        """Makes a reply once more, exactly as it was.

        Raises:
            NotExactError, NotReadyError: as `check_reproducible`.
        """
        question, reply = self.shown_chat.question_and_reply(tab, message)
        check_reproducible(self.manager, reply)
        # An imported reply can have runs of any adapter.
        with self.limits.count_replies(tab, *(run.settings for run in reply.runs)):
            self._begin(tab, question, reply.runs[0].settings, repeats=reply)

    def continue_reply(self, tab: TabSession, message: str, settings: ChatSettings) -> None:
        """Continues the reply that ends the branch."""
        tree = self.shown_chat.message_tree(tab)
        last = tree.last if tree else None
        if last is None or last.id != message or not last.state.can_continue:
            raise RequestError("nothing_to_continue")
        with self.limits.count_replies(tab, last.runs[-1].settings if last.runs else settings):
            owner, chat = tab.owner.id, shown_chat_id(tab)
            self.reply_generator.continue_reply(owner, chat, last, settings)

    def stop(self, tab: TabSession) -> None:
        """Ends the replies in the making in the tab's chat; their texts stay.

        Raises:
            StoreError: only replies of this replica have been ended.
        """
        if tab.chat is None:
            return
        self.reply_generator.stop(tab.owner.id, tab.chat)
        if not self.reply_generator.active_in_chat(tab.chat):
            self._mark_interrupted()  # the replica that could end them may have died
            tab.request_redraw()

    def _begin(
        self,
        tab: TabSession,
        question: str,
        settings: ChatSettings,
        comparison: str | None = None,
        repeats: ChatMessage | None = None,
    ) -> None:
        owner, chat = tab.owner.id, shown_chat_id(tab)
        self.reply_generator.begin(owner, chat, question, settings, comparison, repeats)

    def _ask(self, tab: TabSession, text: str, settings: ChatSettings) -> str:
        """Adds a question to the branch, or to a new chat; returns its id."""
        check_length(text)  # before there is a chat for it
        tree = self.shown_chat.idle_tree(tab)
        if tree is None:
            tab.chat = self.store.create(tab.owner.id, generate_title(text), settings).id
            return self._add_question(tab, text, None)
        self.store.set_settings(tab.owner.id, tree.chat.id, settings)
        if tree.compared:
            return self._add_question(tab, text, self.shown_chat.best_compared(tab, tree).id)
        return self._add_question(tab, text, tree.last.id if tree.last else None)

    def _add_question(self, tab: TabSession, text: str, parent: str | None) -> str:
        question = ChatMessage(uuid.uuid4().hex, parent, "user", text, created=time.time())
        self.store.add(tab.owner.id, shown_chat_id(tab), question)
        return question.id
