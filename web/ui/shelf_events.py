"""The shelf's controls tied to what they do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import gradio as gr

from web.chats.records import SavedPreset
from web.chats.visits import Visit
from web.i18n import say
from web.ui.attempt import Attempts, Outcome
from web.ui.layout import Layout
from web.ui.shelf import Shelf
from web.ui.wishes import chat_settings, text

Updates = dict[Any, Any]


class ShelfEvents:
    """Handlers. `visit_of` tells whose shelf it is, `room` is around what is kept."""

    def __init__(
        self,
        shelf: Shelf,
        layout: Layout,
        attempts: Attempts,
        visit_of: Callable[[gr.Request], Visit],
        room: Callable[[Visit, int], AbstractContextManager[None]],
    ) -> None:
        self._shelf = shelf
        self._layout = layout
        self._attempts = attempts
        self._visit_of = visit_of
        self._room = room

    def connect(self, events: dict[str, Any]) -> None:
        """Tie them; `events` are Gradio's settings of an event."""
        ui, panel = self._layout, self._layout.settings.shelf
        preset = ui.settings.preset
        panel.save_preset.click(
            self.save_preset, [panel.preset_name, *ui.wishes],
            [ui.outbox, preset, panel.preset_name], **events,
        )  # fmt: skip
        panel.delete_preset.click(self.delete_preset, preset, [ui.outbox, preset], **events)
        panel.snippet.input(
            self.use_snippet, [panel.snippet, ui.message],
            [ui.outbox, ui.message, panel.snippet, panel.snippet_name], **events,
        )  # fmt: skip
        panel.save_snippet.click(
            self.save_snippet, [panel.snippet_name, ui.message], [ui.outbox, panel.snippet],
            **events,
        )  # fmt: skip
        panel.delete_snippet.click(
            self.delete_snippet, panel.snippet_name,
            [ui.outbox, panel.snippet, panel.snippet_name], **events,
        )  # fmt: skip

    async def save_preset(self, request: gr.Request, name: Any, *wishes: Any) -> Updates:
        """Keep the sampling as it is set."""
        visit = self._visit_of(request)

        def save() -> Outcome:
            saved = SavedPreset(text(name), chat_settings(*wishes).sampling)
            value = self._shelf.save_preset(visit.owner.id, saved)
            return Outcome(updates={
                self._layout.settings.preset: self._presets(visit, value),
                self._layout.settings.shelf.preset_name: "",
            })  # fmt: skip

        return self._attempts.of(visit, save)

    async def delete_preset(self, request: gr.Request, value: Any) -> Updates:
        """Forget the chosen one; the sliders stay."""
        visit = self._visit_of(request)

        def delete() -> Outcome:
            self._shelf.delete_preset(visit.owner.id, text(value))
            return Outcome(updates={self._layout.settings.preset: self._presets(visit, None)})

        return self._attempts.of(visit, delete)

    async def use_snippet(self, request: gr.Request, name: Any, message: Any) -> Updates:
        """Put a prompt behind what is in the message box. It can then be chosen again."""
        visit, panel = self._visit_of(request), self._layout.settings.shelf

        def use() -> Outcome:
            parts = [text(message), self._shelf.snippet(visit.owner.id, text(name))]
            return Outcome(updates={
                self._layout.message: "\n".join(part for part in parts if part.strip()),
                panel.snippet: None, panel.snippet_name: text(name),
            })  # fmt: skip

        return self._attempts.of(visit, use)

    async def save_snippet(self, request: gr.Request, name: Any, message: Any) -> Updates:
        """Keep what is in the message box."""
        visit = self._visit_of(request)

        def save() -> Outcome:
            with self._room(visit, len(text(message))):
                self._shelf.save_snippet(visit.owner.id, text(name), text(message))
            return Outcome(updates={self._layout.settings.shelf.snippet: self._snippets(visit)})

        return self._attempts.of(visit, save)

    async def delete_snippet(self, request: gr.Request, name: Any) -> Updates:
        """Forget the prompt of that name."""
        visit, panel = self._visit_of(request), self._layout.settings.shelf

        def delete() -> Outcome:
            self._shelf.delete_snippet(visit.owner.id, text(name))
            return Outcome(updates={
                panel.snippet: self._snippets(visit), panel.snippet_name: "",
            })  # fmt: skip

        return self._attempts.of(visit, delete)

    def _presets(self, visit: Visit, value: str | None) -> gr.Radio:
        return gr.Radio(
            self._shelf.preset_choices(visit.owner.id, visit.language), value=value,
            label=say(visit.language, "preset"),
        )  # fmt: skip

    def _snippets(self, visit: Visit) -> Any:
        return gr.update(choices=self._shelf.snippets(visit.owner.id))
