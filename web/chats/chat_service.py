"""What a visitor can do with chats, free of Gradio.

Whatever is asked for is looked up among the visitor's own chats; ids from a page are only names.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from model.serving.manager import ModelManager
from model.types import RequestError
from web.chats import branches
from web.chats.cluster.notifications import ReplicaEvent
from web.chats.message_tree import MessageTree
from web.chats.reply_generator import ReplyGenerator
from web.chats.reproducibility import check_reproducible
from web.chats.store.chat_store import ChatStore, UnknownChatError
from web.chats.store.errors import ReplyBusyError
from web.chats.store.messages import check_length
from web.chats.store.models import ChatMessage, ChatSettings, MessageState, Vote
from web.chats.tab_sessions import TabSession, TabSessions
from web.chats.titles import title_for
from web.public_link.limits import PublicLink


class ChatService:
    """Operations on the chat that a `TabSession` shows.

    They read and write the store, so they run in worker threads; those of one visitor run one after
    another (see `web.workers`).

    `mend` marks replies as interrupted whose server has died.
    """

    def __init__(
        self,
        manager: ModelManager,
        store: ChatStore,
        visits: TabSessions,
        replies: ReplyGenerator,
        link: PublicLink | None = None,
        mend: Callable[[], object] = lambda: None,
    ) -> None:
        self.manager = manager
        self.store = store
        self.visits = visits
        self.replies = replies
        self.link = link
        self._mend = mend

    def on_replica_event(self, news: ReplicaEvent | None) -> None:
        """What another replica did or wants done; None: any of them may have done something."""
        if news is not None and news.stop:
            self.replies.stop_matching(news)
        else:
            self.visits.notify_remote_change(news)

    def conversation(self, visit: TabSession) -> MessageTree | None:
        """What the tab shows; None for a chat that has not begun, or is gone."""
        if visit.chat is None:
            return None
        shown = visit.chat
        try:
            chat = self.store.chat(visit.owner.id, shown)
        except UnknownChatError:
            if visit.chat == shown:
                visit.chat = None
            return None
        messages = self.store.messages(visit.owner.id, chat.id)
        if elsewhere := self._elsewhere(messages):
            self._mend()  # another server makes them, if it is still alive
            messages = self.store.messages(visit.owner.id, chat.id)
            elsewhere = self._elsewhere(messages)
        branch = branches.path(messages, chat.head)
        return MessageTree(chat, messages, branch, visit.compared, elsewhere)

    def _elsewhere(self, messages: dict[str, ChatMessage]) -> bool:
        """Whether some of them are replies that another server makes, or made when it died."""
        return any(
            m.state is MessageState.STREAMING and not self.replies.is_generating(m.id)
            for m in messages.values()
        )

    def send(self, visit: TabSession, text: str, settings: ChatSettings) -> None:
        """Ask in the chat that is shown, or begin one."""
        self._refuse_gone(settings)
        with self._counted(visit, settings):
            question = self._ask(visit, text, settings)
            self.replies.begin(visit.owner.id, _shown(visit), question, settings)

    def compare(
        self,
        visit: TabSession,
        text: str,
        rivals: Sequence[ChatSettings],
        settings: ChatSettings | None = None,
    ) -> None:
        """Ask several at once; without text, the last question once more. The chat itself keeps
        `settings`, or begins with the first rival's."""
        again = not text.strip()
        comparison = uuid.uuid4().hex
        with self._counted(visit, *rivals):
            kept = settings or rivals[0]
            question = self._last_question(visit) if again else self._ask(visit, text, kept)
            for rival in rivals:
                self.replies.begin(visit.owner.id, _shown(visit), question, rival, comparison)
        visit.compared = None
        self.store.set_head(visit.owner.id, _shown(visit), question)
        self.visits.changed(visit.owner.id)

    def edit(self, visit: TabSession, message: str, text: str, settings: ChatSettings) -> None:
        """Ask in other words: a branch beside the message, and its answer."""
        _, before = self._own(visit, message)
        if before.role != "user" or not text.strip():
            raise RequestError("There is nothing to ask", "Write something.")
        self._refuse_gone(settings)
        with self._counted(visit, settings):
            self._refuse_busy(visit)
            question = self._add_question(visit, text, before.parent)
            self.replies.begin(visit.owner.id, _shown(visit), question, settings)

    def regenerate(self, visit: TabSession, message: str | None, settings: ChatSettings) -> None:
        """Answer again, as a branch beside the reply; None means the last one that is shown."""
        if message is None:
            question = self._last_question(visit)
        else:
            question = self._own_reply(visit, message)[0]
        self._refuse_gone(settings)
        with self._counted(visit, settings):
            self.replies.begin(visit.owner.id, _shown(visit), question, settings)

    def rerun_exactly(self, visit: TabSession, message: str) -> None:
        """Make a reply once more, exactly as it was.

        Raises:
            NotExactError, NotReadyError: as `check_reproducible`.
        """
        question, reply = self._own_reply(visit, message)
        check_reproducible(self.manager, reply)
        first = reply.runs[0].settings
        # An import can hold runs of anybody.
        with self._counted(visit, *(run.settings for run in reply.runs)):
            self.replies.begin(visit.owner.id, _shown(visit), question, first, repeats=reply)

    def continue_reply(self, visit: TabSession, message: str, settings: ChatSettings) -> None:
        """Continue the reply that the chat ends with."""
        talk = self.conversation(visit)
        last = talk.last if talk else None
        if last is None or last.id != message or not last.state.can_go_on:
            raise RequestError("There is nothing left to continue", "Regenerate it instead.")
        with self._counted(visit, last.runs[-1].settings if last.runs else settings):
            self.replies.continue_reply(visit.owner.id, _shown(visit), last, settings)

    def branch(self, visit: TabSession, message: str) -> None:
        """Show the branch that leads through a message, to where it ends."""
        chat, chosen = self._own(visit, message)
        messages = self.store.messages(visit.owner.id, chat)
        leaf = messages[branches.newest_leaf(messages, chosen.id)]
        undecided = leaf.comparison is not None and leaf.id != chosen.id
        head = leaf.parent if undecided else leaf.id
        self.store.set_head(visit.owner.id, chat, head)
        self.visits.changed(visit.owner.id)

    def side_by_side(self, visit: TabSession, message: str) -> None:
        """Show the comparison that a reply was part of."""
        chat, reply = self._own(visit, message)
        if reply.comparison and reply.parent:
            visit.compared = reply.comparison
            self.store.set_head(visit.owner.id, chat, reply.parent)
            self.visits.changed(visit.owner.id)

    def choose(self, visit: TabSession, message: str) -> None:
        """Go on with one of the replies side by side."""
        chat, _ = self._own(visit, message)
        self.store.set_head(visit.owner.id, chat, message)
        self.visits.changed(visit.owner.id)

    def vote(self, visit: TabSession, comparison: str, winner: str | None) -> None:
        """Say which reply of a comparison is the best, or that there is none."""
        if winner is not None:
            self._own(visit, winner)
        vote = Vote(comparison, _shown(visit), winner, time.time())
        self.store.vote(visit.owner.id, vote)
        self.visits.changed(visit.owner.id)

    def stop(self, visit: TabSession) -> None:
        """End what is being said in the chat; what is there stays.

        Raises:
            StoreError: only what is made here has been ended.
        """
        if visit.chat is None:
            return
        self.replies.stop(visit.owner.id, visit.chat)
        if not self.replies.active_in_chat(visit.chat):  # nobody may be left who could end it
            self._mend()
            visit.request_redraw()

    def open(self, visit: TabSession, chat: str | None) -> ChatSettings | None:
        """Show a chat, or a new one; its settings.

        Raises:
            UnknownChatError: it is gone, or somebody else's.
        """
        found = self.store.chat(visit.owner.id, chat) if chat else None
        visit.chat = found.id if found else None
        visit.compared = None
        visit.stop_reading()
        visit.request_redraw()
        return found.settings if found else None

    def rename(self, visit: TabSession, chat: str, title: str) -> None:
        self.store.rename(visit.owner.id, chat, title)
        self.visits.changed(visit.owner.id)

    def delete(self, visit: TabSession, chat: str) -> None:
        """Put a chat away. It can be brought back until another one is deleted."""
        removed = self.store.chat(visit.owner.id, chat)
        self.store.delete(visit.owner.id, chat)
        visit.removed = removed
        self.visits.changed(visit.owner.id)
        self.replies.stop(visit.owner.id, chat)

    def restore(self, visit: TabSession, chat: str) -> ChatSettings | None:
        """Bring a deleted chat back, into view where nothing else is; its settings then."""
        self.store.restore(visit.owner.id, chat)
        visit.removed = None
        self.visits.changed(visit.owner.id)
        return self.open(visit, chat) if visit.chat is None else None

    def settings(self, visit: TabSession) -> ChatSettings | None:
        """How the chat that is shown is to be answered; None for one that is yet to begin."""
        if visit.chat is None:
            return None
        try:
            return self.store.chat(visit.owner.id, visit.chat).settings
        except UnknownChatError:
            return None

    def save_settings(
        self, visit: TabSession, chat: str, settings: ChatSettings
    ) -> ChatSettings | None:
        """Remember how a chat is to be answered; how it was before, if there is such a chat."""
        try:
            before = self.store.chat(visit.owner.id, chat).settings
        except UnknownChatError:  # it has not begun, or was deleted
            return None
        if before != settings:
            self.store.set_settings(visit.owner.id, chat, settings)
            visit.request_redraw()
        return before

    def _ask(self, visit: TabSession, text: str, settings: ChatSettings) -> str:
        """Add a question to the branch that is shown; its id."""
        check_length(text)  # before there is a chat for it
        talk = self._refuse_busy(visit)
        if talk is None:
            visit.chat = self.store.create(visit.owner.id, title_for(text), settings).id
            return self._add_question(visit, text, None)
        self.store.set_settings(visit.owner.id, talk.chat.id, settings)
        if talk.compared:
            return self._add_question(visit, text, self._favourite(visit, talk).id)
        return self._add_question(visit, text, talk.last.id if talk.last else None)

    def _favourite(self, visit: TabSession, talk: MessageTree) -> ChatMessage:
        """Who goes on where replies stand side by side and none was chosen: the best, or first."""
        votes = self.store.votes(visit.owner.id, talk.chat.id)
        winners = {vote.comparison: vote.winner for vote in votes}
        best = (r for r in talk.compared if winners.get(r.comparison or "") == r.id)
        return next(best, talk.compared[0])

    def _add_question(self, visit: TabSession, text: str, parent: str | None) -> str:
        question = ChatMessage(uuid.uuid4().hex, parent, "user", text, created=time.time())
        self.store.add(visit.owner.id, _shown(visit), question)
        return question.id

    def adapter_exists(self, adapter: str) -> bool:
        """Whether an adapter is there, broken or not; as long as the model loads, it may be."""
        known = {one.name for one in self.manager.cached_adapters()}
        return not adapter or adapter in known or not self.manager.status().ready

    def _refuse_gone(self, settings: ChatSettings) -> None:
        if not self.adapter_exists(settings.adapter):
            raise RequestError(
                f"The adapter {settings.adapter} is not here any more", "Choose another one."
            )

    def may_use_adapter(self, visit: TabSession, adapter: str) -> bool:
        """Whether a visitor may use an adapter, "" being the base: not all may, by a link."""
        return self.link is None or not visit.guest or self.link.allows(adapter)

    @contextmanager
    def reserve_quota(self, visit: TabSession, characters: int) -> Iterator[None]:
        """Around the keeping of what is no question: by the link there is a limit for that.

        Raises:
            LinkLimitError
        """
        link = self.link if visit.guest else None
        if link is not None:
            link.check_quota(characters)
        yield
        if link is not None:
            link.add_stored(characters)

    @contextmanager
    def _counted(self, visit: TabSession, *asked: ChatSettings) -> Iterator[None]:
        """Around the beginning of replies. What a visitor of the public link may not have is
        refused before anything has happened, and counted once it has.

        Raises:
            LinkLimitError
        """
        link = self.link if visit.guest else None
        if link is not None:
            link.check(visit.owner.id, [settings.adapter for settings in asked])
        yield
        if link is not None:
            link.add_replies(visit.owner.id, len(asked))
        visit.stop_reading()

    def _refuse_busy(self, visit: TabSession) -> MessageTree | None:
        """What the tab shows, where nobody speaks.

        Raises:
            ReplyBusyError
        """
        if visit.chat and self.replies.active_in_chat(visit.chat):
            raise ReplyBusyError
        talk = self.conversation(visit)
        if talk and talk.elsewhere:
            raise ReplyBusyError
        return talk

    def _last_question(self, visit: TabSession) -> str:
        talk = self.conversation(visit)
        asked = [m.id for m in talk.branch if m.role == "user"] if talk else []
        if not asked:
            raise RequestError("There is no question to answer yet", "Write a message.")
        return asked[-1]

    def _own_reply(self, visit: TabSession, message: str) -> tuple[str, ChatMessage]:
        """A reply of the chat that is shown, behind the question that it answers.

        Raises:
            UnknownChatError: there is none, or it is no reply.
        """
        _, reply = self._own(visit, message)
        if reply.role != "assistant" or reply.parent is None:
            raise UnknownChatError
        return reply.parent, reply

    def _own(self, visit: TabSession, message: str) -> tuple[str, ChatMessage]:
        """A message of the chat that is shown, with the chat.

        Raises:
            UnknownChatError
        """
        chat, found = self.store.message(visit.owner.id, message)
        if chat != visit.chat:
            raise UnknownChatError
        return chat, found


def _shown(visit: TabSession) -> str:
    if visit.chat is None:
        raise UnknownChatError
    return visit.chat
