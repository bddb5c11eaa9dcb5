"""Actions of the library: save, use and delete presets and prompts."""

from __future__ import annotations

from web.chats.chat_service import ChatService
from web.chats.store.models import SavedPreset
from web.chats.tab_sessions import TabSession
from web.ui.action_result import ActionResult
from web.ui.control_updates import ControlUpdates
from web.ui.controls import Updates
from web.ui.layout import Layout
from web.ui.prompt_library import PromptLibrary
from web.ui.request_models import ByName, SavePreset, SaveSnippet


class LibraryActions:
    """The visitor's presets, and their prompts, which the code calls snippets."""

    def __init__(
        self,
        chat_service: ChatService,
        library: PromptLibrary,
        layout: Layout,
        controls: ControlUpdates,
    ) -> None:
        self._chat_service = chat_service
        self._library = library
        self._layout = layout
        self._controls = controls

    def save_preset(self, tab: TabSession, body: SavePreset) -> ActionResult:
        """Saves the sampling of the controls under a name, and chooses it."""
        saved = SavedPreset(body.name or "", body.form.settings().sampling)
        with self._chat_service.limits.reserve_quota(tab, len(saved.name)):
            value = self._library.save_preset(tab.owner.id, saved)
        self._notify(tab)
        cleared: Updates = {self._layout.settings.library.preset_name: ""}
        return ActionResult(updates=self._controls.presets(tab, value) | cleared)

    def delete_preset(self, tab: TabSession, body: ByName) -> ActionResult:
        """Deletes the chosen preset; the sliders stay."""
        self._library.delete_preset(tab.owner.id, body.name)
        self._notify(tab)
        return ActionResult(updates=self._controls.presets(tab, None))

    def use_snippet(self, tab: TabSession, body: ByName) -> ActionResult:
        """Adds a prompt to the message box. The drop-down is cleared, to choose it again."""
        panel = self._layout.settings.library
        return ActionResult(
            inserted=self._library.snippet(tab.owner.id, body.name),
            updates={panel.snippet: None, panel.snippet_name: body.name or ""},
        )

    def save_snippet(self, tab: TabSession, body: SaveSnippet) -> None:
        """Saves the text of the message box."""
        text = body.message or ""
        with self._chat_service.limits.reserve_quota(tab, len(text)):
            self._library.save_snippet(tab.owner.id, body.name or "", text)
        self._notify(tab)

    def delete_snippet(self, tab: TabSession, body: ByName) -> ActionResult:
        """Deletes the prompt of that name."""
        self._library.delete_snippet(tab.owner.id, body.name)
        self._notify(tab)
        return ActionResult(updates={self._layout.settings.library.snippet_name: ""})

    def _notify(self, tab: TabSession) -> None:
        self._chat_service.tab_sessions.notify_library_changed(tab.owner.id)
