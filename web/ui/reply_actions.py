"""Actions that begin, repeat and end replies: send, compare, edit, regenerate, continue, stop."""

from __future__ import annotations

from web.chats.chat_service import ChatService
from web.chats.tab_sessions import TabSession
from web.ui.action_result import ActionResult
from web.ui.compare_panel import chosen_rivals
from web.ui.form_sync import FormSync
from web.ui.prompt_library import PromptLibrary
from web.ui.request_models import ById, ByIdWithForm, Compare, Edit, Empty, Regenerate, Send


class ReplyActions:
    """Replies in the chat that a tab shows."""

    def __init__(self, chat_service: ChatService, library: PromptLibrary, sync: FormSync) -> None:
        self._chat_service = chat_service
        self._library = library
        self._sync = sync

    def send(self, tab: TabSession, body: Send) -> ActionResult:
        """Asks a question. The message box keeps what could not be sent, or was typed since."""

        def ask() -> ActionResult:
            if not body.text.strip():
                return ActionResult()
            self._chat_service.send(tab, body.text, self._sync.settings(tab, body.form))
            return ActionResult(sent=body.text)

        return self._sync.run(tab, body.form, ask)

    def compare(self, tab: TabSession, body: Compare) -> ActionResult:
        """Asks several rivals: the message, or else the last question."""

        def ask() -> ActionResult:
            presets = self._library.presets(tab.owner.id)
            settings = self._sync.settings(tab, body.form)
            places = [(rival.adapter, rival.preset) for rival in body.rivals]
            rivals = chosen_rivals(settings, places, presets)
            self._chat_service.compare(tab, body.text, rivals, settings)
            return ActionResult(sent=body.text if body.text.strip() else "")

        return self._sync.run(tab, body.form, ask)

    def edit(self, tab: TabSession, body: Edit) -> None:
        """Asks another version of a question."""
        settings = self._sync.settings(tab, body.form)
        self._chat_service.edit(tab, body.id, body.text, settings)

    def regenerate(self, tab: TabSession, body: Regenerate) -> None:
        """Begins another reply to the same question."""
        self._chat_service.regenerate(tab, body.id, self._sync.settings(tab, body.form))

    def continue_reply(self, tab: TabSession, body: ByIdWithForm) -> None:
        """Continues a reply that ended early."""
        self._chat_service.continue_reply(tab, body.id, self._sync.settings(tab, body.form))

    def rerun_exactly(self, tab: TabSession, body: ById) -> None:
        """Makes a reply once more, exactly as it was."""
        self._chat_service.rerun_exactly(tab, body.id)

    def stop(self, tab: TabSession, _: Empty) -> None:
        """Ends the replies in the making."""
        self._chat_service.stop(tab)
