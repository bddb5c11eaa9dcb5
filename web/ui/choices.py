"""Choices of the page's drop-downs: labels and values. Independent of Gradio."""

from __future__ import annotations

from model.serving.adapter_folders import Adapter
from model.serving.manager import ModelManager
from model.translations import translate
from web.chats.chat_service import ChatService
from web.chats.tab_sessions import TabSession
from web.ui.presets import PRESETS

BASE = ""  # the widget's value for the base, which is None in all other code
AUTOMATIC = ""  # the widget's value for the template that belongs to the adapter

Choices = list[tuple[str, str]]


def adapter_choices(chat_service: ChatService, tab: TabSession) -> Choices:
    """Returns the base and the adapters that the visitor may use."""
    status, language = chat_service.manager.status(), tab.language
    base = (translate(language, "base", name=status.base_model), BASE)
    adapters = chat_service.manager.cached_adapters()
    labelled = [(adapter_label(adapter, language), adapter.name) for adapter in adapters]
    limits = chat_service.limits
    return [
        (label, value)
        for label, value in (base, *labelled)
        if limits.may_use_adapter(tab, value or None)
    ]


def adapter_label(adapter: Adapter, language: str) -> str:
    """Returns an adapter's label: ready, with a warning, or broken and why."""
    if adapter.problem:
        return translate(
            language, "broken", name=adapter.name, reason=adapter.problem.message(language)
        )
    label = f"{adapter.name}: {adapter.description}" if adapter.description else adapter.name
    if adapter.warnings:
        return translate(
            language, "warned", label=label, reason=adapter.warnings[0].message(language)
        )
    return translate(language, "healthy", label=label)


def template_choices(manager: ModelManager, language: str) -> Choices:
    """Returns the prompt templates; while the model loads, only the automatic one."""
    templates = [(t.description or t.name, t.name) for t in manager.templates()]
    return [(translate(language, "template_auto"), AUTOMATIC), *templates]


def preset_choices(language: str) -> Choices:
    """Returns the built-in presets."""
    return [(translate(language, f"preset_{name}"), name) for name in PRESETS]
