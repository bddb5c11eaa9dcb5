"""What the page's controls show a visitor: texts, choices, a chat's settings, how the model is."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from model.translations import texts, translate
from model.types import Status
from web.chats.chat_service import ChatService
from web.chats.store.models import ChatSettings
from web.chats.tab_sessions import TabSession
from web.ui.choices import AUTOMATIC, BASE, Choices, adapter_choices, template_choices
from web.ui.controls import Updates, merge
from web.ui.layout import Layout, relabel
from web.ui.library import PromptLibrary
from web.ui.train_actions import TrainActions


class ControlUpdates:
    """Updates of Gradio's components for one tab. They read the store: for worker threads."""

    def __init__(
        self,
        chat_service: ChatService,
        shelf: PromptLibrary,
        layout: Layout,
        training: TrainActions | None,
    ) -> None:
        self._chat_service = chat_service
        self._manager = chat_service.manager
        self._shelf = shelf
        self._layout = layout
        self._training = training

    def all(self, visit: TabSession) -> Updates:
        """Everything but a chat's settings."""
        ui, language = self._layout, visit.language
        status = self._manager.status()
        notice = self._notice(status, language)
        updates: Updates = relabel(ui, language)
        merge(updates, {
            ui.status: status_line(status, language),
            ui.notice: gr.update(value=notice, visible=bool(notice)),
        })  # fmt: skip
        merge(updates, self._choices(visit))
        merge(updates, ui.settings.share.shown(self._chat_service.limits.link, visit))
        if self._training is not None:
            merge(updates, self._training.updates(visit))
        return updates

    def fill(self, visit: TabSession, settings: ChatSettings) -> Updates:
        """The controls as a chat has them; what is not there any more is left to the base."""
        adapter = self._adapter(visit, settings.adapter)
        panel, presets = self._layout.settings, self._shelf.presets(visit.owner.id)
        return {
            **panel.fill(settings, presets),
            self._layout.adapter: self.adapter(visit, adapter),
            panel.template: self._template(visit, settings.template or AUTOMATIC),
        }

    def begun(self, visit: TabSession) -> Updates:
        """The controls for a chat to come, where the base is not for this visitor."""
        first = self._fallback(visit)
        return {} if first == BASE else {self._layout.adapter: self.adapter(visit, first)}

    def missed(self, visit: TabSession, settings: ChatSettings) -> str:
        """That a chat's adapter is not there any more, if it is not."""
        adapter = self._adapter(visit, settings.adapter)
        if adapter == (settings.adapter or BASE):
            return ""
        base = translate(visit.language, "the_base")
        names = {"name": settings.adapter or base, "other": adapter or base}
        return translate(visit.language, "adapter_gone", **names)

    def adapter(self, visit: TabSession, adapter: str) -> Any:
        """The drop-down with an adapter, whether or not it has been told yet what to offer."""
        return _with(adapter_choices(self._chat_service, visit), adapter)

    def presets(self, visit: TabSession, value: str | None) -> Updates:
        """The presets that there are; this one is marked."""
        choices = self._shelf.preset_choices(visit.owner.id, visit.language)
        return {self._layout.settings.preset: gr.update(choices=choices, value=value)}

    def _choices(self, visit: TabSession) -> Updates:
        """The choices of every drop-down."""
        ui, language, owner = self._layout, visit.language, visit.owner.id
        presets = self._shelf.preset_choices(owner, language)
        adapters = adapter_choices(self._chat_service, visit)
        return {
            ui.adapter: gr.update(choices=adapters),
            ui.settings.template: gr.update(choices=template_choices(self._manager, language)),
            **ui.compare.offer(adapters, presets, texts(language)),
            ui.settings.preset: gr.update(choices=presets),
            ui.settings.shelf.snippet: gr.update(choices=self._shelf.snippets(owner)),
        }

    def _notice(self, status: Status, language: str) -> str:
        """What is to be known about the model, if anything."""
        if status.ready and not self._manager.has_chat_template:
            return translate(language, "untuned")
        return status.error.sentence(language) if status.error else ""

    def _template(self, visit: TabSession, template: str) -> Any:
        """What is gone gives way once it is known to be."""
        choices = template_choices(self._manager, visit.language)
        gone = self._manager.status().ready and template not in [name for _, name in choices]
        return _with(choices, AUTOMATIC if gone else template)

    def _adapter(self, visit: TabSession, adapter: str | None) -> str:
        """The adapter, or who goes on in its place: it is gone, or not for this visitor."""
        limits = self._chat_service.limits
        if limits.may_use_adapter(visit, adapter) and limits.adapter_exists(adapter):
            return adapter or BASE
        return self._fallback(visit)

    def _fallback(self, visit: TabSession) -> str:
        link = self._chat_service.limits.link
        if link is None or self._chat_service.limits.may_use_adapter(visit, None):
            return BASE
        return link.default_adapter(self._chat_service.limits.adapter_exists) or ""


def _with(choices: Choices, value: str) -> Any:
    """A drop-down of these, and of the value that is shown in any case."""
    missing = [] if value in (name for _, name in choices) else [(value, value)]
    return gr.update(choices=[*choices, *missing], value=value)


def status_line(status: Status, language: str) -> str:
    """The model's name, or a progress bar while it loads."""
    if status.ready:
        if status.remote:
            return escape(translate(language, "ready_remote", name=status.base_model))
        facts = {"quantization": status.quantization, "device": status.device}
        return escape(translate(language, "ready", name=status.base_model, **facts))
    if status.error:
        return "&nbsp;"
    percent = round(status.progress * 100)
    words = escape(translate(language, f"phase_{status.phase}"))
    return (
        f'{words} <progress value="{percent}" max="100" aria-label="{words}"></progress> '
        f"{percent} %"
    )
