"""Actions of the controls: settings, presets, the language, and the end of the public link."""

from __future__ import annotations

from model.errors import RequestError
from web.chats.chat_service import ChatService
from web.chats.prefill_ahead import PrefillAhead
from web.chats.tab_sessions import TabSession
from web.ui.action_result import ActionResult
from web.ui.form_sync import FormSync
from web.ui.layout import Layout
from web.ui.presets import FIRST, PRESETS
from web.ui.prompt_library import PromptLibrary
from web.ui.request_models import ByName, Empty, Form, Language


class SettingsActions:
    """The chat's settings, and those of the tab."""

    def __init__(
        self,
        chat_service: ChatService,
        library: PromptLibrary,
        layout: Layout,
        prefill_ahead: PrefillAhead,
        sync: FormSync,
    ) -> None:
        self._chat_service = chat_service
        self._library = library
        self._layout = layout
        self._prefill_ahead = prefill_ahead
        self._sync = sync

    def change_settings(self, tab: TabSession, body: Form) -> ActionResult:
        """Stores the controls' values in the chat that they show, which may be closed by now."""

        def save() -> ActionResult:
            settings, chat = body.form.settings(), body.form.loaded_chat or ""
            before = self._chat_service.chat_list.save_settings(tab, chat, settings)
            if before is not None and chat == tab.chat:
                self._prefill_ahead.settings_changed(tab, before, settings)
            return ActionResult()

        return self._sync.run(tab, body.form, save)

    def apply_preset(self, tab: TabSession, body: ByName) -> ActionResult:
        """Moves the sliders to a preset's values."""
        preset = self._library.presets(tab.owner.id).get(body.name or "") or PRESETS[FIRST]
        return ActionResult(updates=self._layout.settings.slider_updates(preset))

    def set_language(self, tab: TabSession, body: Language) -> None:
        """Shows the page in another language."""
        tab.language = body.language
        tab.request_redraw()
        tab.refresh_controls()

    def revoke_link(self, tab: TabSession, _: Empty) -> None:
        """Ends the public link; its own visitors cannot."""
        link = self._chat_service.limits.link
        if link is None or tab.guest:
            raise RequestError("no_link_to_revoke")
        link.revoke()
        for other in self._chat_service.tab_sessions:
            other.refresh_controls()
            if other.guest:
                other.request_redraw()  # its stream then sees that the link has ended
