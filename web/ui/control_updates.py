"""Updates of the page's controls: texts, choices, a chat's settings, the model's state."""

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
from web.ui.prompt_library import PromptLibrary
from web.ui.train_actions import TrainActions


class ControlUpdates:
    """Updates of Gradio's components for one tab. They read the store: for worker threads."""

    def __init__(
        self,
        chat_service: ChatService,
        library: PromptLibrary,
        layout: Layout,
        training: TrainActions | None,
    ) -> None:
        self._chat_service = chat_service
        self._manager = chat_service.manager
        self._library = library
        self._layout = layout
        self._training = training

    def all(self, tab: TabSession) -> Updates:
        """Returns everything except a chat's settings."""
        ui, language = self._layout, tab.language
        status = self._manager.status()
        notice = self._notice(status, language)
        updates: Updates = relabel(ui, language)
        merge(updates, {
            ui.status: status_line(status, language),
            ui.notice: gr.update(value=notice, visible=bool(notice)),
        })  # fmt: skip
        merge(updates, self._choices(tab))
        merge(updates, ui.settings.share.updates(self._chat_service.limits.link, tab))
        if self._training is not None:
            merge(updates, self._training.updates(tab))
        return updates

    def fill(self, tab: TabSession, settings: ChatSettings) -> Updates:
        """Returns a chat's settings. If its adapter is gone, the base takes its place."""
        adapter = self._usable_adapter(tab, settings.adapter)
        panel, presets = self._layout.settings, self._library.presets(tab.owner.id)
        return {
            **panel.fill(settings, presets),
            self._layout.adapter: self._adapter_update(tab, adapter),
            panel.template: self._template_update(tab, settings.template),
        }

    def new_chat(self, tab: TabSession) -> Updates:
        """Returns a new chat's controls: another adapter, if the visitor may not use the base."""
        adapter = self._fallback(tab)
        if adapter is None:
            return {}
        return {self._layout.adapter: self._adapter_update(tab, adapter)}

    def open_chat_tab(self, tab: TabSession, adapter: str | None) -> Updates:
        """Returns updates that show the Chat tab; with an `adapter`, that one is chosen."""
        shown: Updates = {self._layout.tabs: gr.update(selected="chat")}
        if adapter is None:
            return shown
        return {self._layout.adapter: self._adapter_update(tab, adapter)} | shown

    def missing_adapter(self, tab: TabSession, settings: ChatSettings) -> str:
        """Returns a sentence if a chat's adapter is gone, else ""."""
        adapter = self._usable_adapter(tab, settings.adapter)
        if adapter == settings.adapter:
            return ""
        base = translate(tab.language, "the_base")
        names = {"name": settings.adapter or base, "other": adapter or base}
        return translate(tab.language, "adapter_gone", **names)

    def presets(self, tab: TabSession, value: str | None) -> Updates:
        """Returns the presets; the one of this `value` is marked."""
        choices = self._library.preset_choices(tab.owner.id, tab.language)
        return {self._layout.settings.preset: gr.update(choices=choices, value=value)}

    def _choices(self, tab: TabSession) -> Updates:
        """Returns the choices of every drop-down."""
        ui, language, owner = self._layout, tab.language, tab.owner.id
        presets = self._library.preset_choices(owner, language)
        adapters = adapter_choices(self._chat_service, tab)
        return {
            ui.adapter: gr.update(choices=adapters),
            ui.settings.template: gr.update(choices=template_choices(self._manager, language)),
            **ui.compare.offer(adapters, presets, texts(language)),
            ui.settings.preset: gr.update(choices=presets),
            ui.settings.library.snippet: gr.update(choices=self._library.snippets(owner)),
        }

    def _notice(self, status: Status, language: str) -> str:
        """Returns a remark on the model, or ""."""
        if status.ready and not self._manager.has_chat_template:
            return translate(language, "untuned")
        return status.error.sentence(language) if status.error else ""

    def _adapter_update(self, tab: TabSession, adapter: str | None) -> Any:
        return _dropdown(adapter_choices(self._chat_service, tab), adapter or BASE)

    def _template_update(self, tab: TabSession, template: str | None) -> Any:
        """Shows a template; once the model is ready, a template that is gone is replaced."""
        choices, value = template_choices(self._manager, tab.language), template or AUTOMATIC
        gone = self._manager.status().ready and value not in [name for _, name in choices]
        return _dropdown(choices, AUTOMATIC if gone else value)

    def _usable_adapter(self, tab: TabSession, adapter: str | None) -> str | None:
        """Returns the adapter, or another one if it is gone or not for this visitor."""
        limits = self._chat_service.limits
        if limits.may_use_adapter(tab, adapter) and limits.adapter_exists(adapter):
            return adapter
        return self._fallback(tab)

    def _fallback(self, tab: TabSession) -> str | None:
        link = self._chat_service.limits.link
        if link is None or self._chat_service.limits.may_use_adapter(tab, None):
            return None
        return link.default_adapter(self._chat_service.limits.adapter_exists)


def _dropdown(choices: Choices, value: str) -> Any:
    """Returns a drop-down's update. Its value is among the choices in any case."""
    missing = [] if value in (name for _, name in choices) else [(value, value)]
    return gr.update(choices=[*choices, *missing], value=value)


def status_line(status: Status, language: str) -> str:
    """Returns the model's name, or a progress bar while it loads."""
    if status.ready:
        if status.remote:
            return escape(translate(language, "ready_remote", name=status.base_model))
        facts = {"quantization": status.quantization, "device": status.device}
        return escape(translate(language, "ready", name=status.base_model, **facts))
    if status.error:
        return "&nbsp;"
    percent = round(status.progress * 100)
    text = escape(translate(language, f"phase_{status.phase}"))
    return (
        f'{text} <progress value="{percent}" max="100" aria-label="{text}"></progress> {percent} %'
    )
