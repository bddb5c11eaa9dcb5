"""What there is to choose from, as labels and values for a drop-down. Free of Gradio."""

from __future__ import annotations

from model.serving.adapter_folders import Adapter
from model.serving.manager import ModelManager
from model.translations import translate
from web.chats.chat_service import ChatService
from web.chats.tab_sessions import TabSession
from web.ui.presets import PRESETS

BASE = ""  # the value for "no adapter"
AUTOMATIC = ""  # and for "whatever template belongs to it"

Choices = list[tuple[str, str]]


def adapter_choices(chat_service: ChatService, visit: TabSession) -> Choices:
    """The base and the adapters, as far as a visitor may use them."""
    status, language = chat_service.manager.status(), visit.language
    base = (translate(language, "base", name=status.base_model), BASE)
    adapters = chat_service.manager.cached_adapters()
    found = [(adapter_label(adapter, language), adapter.name) for adapter in adapters]
    limits = chat_service.limits
    return [c for c in (base, *found) if limits.may_use_adapter(visit, c[1] or None)]


def adapter_label(found: Adapter, language: str) -> str:
    """An adapter as a drop-down shows it: ready, with a warning, or broken and why."""
    if found.problem:
        return translate(
            language, "broken", name=found.name, reason=found.problem.message(language)
        )
    label = f"{found.name}: {found.description}" if found.description else found.name
    if found.warnings:
        return translate(
            language, "warned", label=label, reason=found.warnings[0].message(language)
        )
    return translate(language, "healthy", label=label)


def template_choices(manager: ModelManager, language: str) -> Choices:
    """The prompt templates; none but the automatic one while the model loads."""
    known = [(t.description or t.name, t.name) for t in manager.templates()]
    return [(translate(language, "template_auto"), AUTOMATIC), *known]


def preset_choices(language: str) -> Choices:
    """The presets that everybody has."""
    return [(translate(language, f"preset_{name}"), name) for name in PRESETS]
