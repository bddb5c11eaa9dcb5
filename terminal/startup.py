"""From options to a model that answers: everything that was named is looked at first."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from model.base_resolver import MODEL_TEMPLATE
from model.config.settings import Settings
from model.serving.background_loader import Load
from model.serving.local_backend import check_early, load_local
from model.serving.manager import ModelManager
from model.serving.remote_backend import load_remote
from model.suggestions import did_you_mean
from model.text.prompt import load_templates
from model.types import LinlyError, Phase, SettingsError
from terminal.adapter import find_adapter, refuse_broken
from terminal.options import RequestDefaults, TerminalOptions
from terminal.screen import Console

WORDS = {
    Phase.STARTING: "Starting",
    Phase.FETCHING: "Fetching the model (once)",
    Phase.CONVERTING: "Converting the model (once, about half a minute)",
    Phase.READING: "Reading the weights",
}
BAR = 24  # characters
POLL_SECONDS = 0.2
JOIN_SECONDS = 2.0  # for the loading thread to notice that nobody wants its model any more


def validate(options: TerminalOptions) -> tuple[RequestDefaults, Load]:
    """The wishes with their adapter's name, and what loads the base with that adapter beside it.

    Raises:
        LinlyError: the adapter, the template or the base cannot be used, as far as that can be
            said before the base is read.
    """
    settings, wishes = options.settings, options.defaults
    adapter = _adapter(options)
    _refuse_unknown(wishes.template, [MODEL_TEMPLATE, *load_templates(settings.prompts_dir)])
    check_early(settings)
    named = replace(wishes, adapter=adapter.name if adapter else None)
    load = load_remote if settings.engine_url else load_local
    return named, partial(load, adapters=[adapter] if adapter else [])


def _adapter(options: TerminalOptions) -> Path | None:
    if options.lora_model is None:
        return None
    settings = options.settings
    adapter = find_adapter(options.lora_model, settings.adapters_dir)
    refuse_broken(adapter, [MODEL_TEMPLATE, *load_templates(settings.prompts_dir)])
    return adapter


def _refuse_unknown(template: str | None, known: list[str]) -> None:
    if template is not None and template not in known:
        remedy = did_you_mean(template, known, "there_are", names=tuple(known))
        raise SettingsError("unknown_template", name=template, remedy=remedy)


@contextmanager
def running_manager(
    settings: Settings, wishes: RequestDefaults, load: Load, screen: Console
) -> Iterator[ModelManager]:
    """A manager that is ready to answer, closed in the end.

    Raises:
        LinlyError: the model could not be loaded.
    """
    manager = ModelManager(settings, load)
    manager.start()
    try:
        _follow(manager, screen)
        _refuse_unknown(wishes.template, [template.name for template in manager.templates()])
        _warn(manager, wishes, screen)
        yield manager
    finally:
        manager.close()
        if not manager.join(JOIN_SECONDS):
            screen.complain("Interrupted.")
            # Torch aborts a process that ends while it works in another thread.
            sys.stdout.flush()
            os._exit(1)


def _follow(manager: ModelManager, screen: Console) -> None:
    """Show each phase until the model is ready."""
    while (status := manager.wait(POLL_SECONDS)).phase in WORDS:
        done = round(status.progress * BAR)
        bar = f"[{'#' * done}{' ' * (BAR - done)}] {status.progress:4.0%}"
        screen.draw(f"{WORDS[status.phase]} {bar}")
    screen.draw("")
    if status.error:
        raise LinlyError(status.error)


def _warn(manager: ModelManager, wishes: RequestDefaults, screen: Console) -> None:
    """What is to be known about the chosen adapter, or about a base that is to chat alone."""
    for adapter in manager.adapters():
        if adapter.name == wishes.adapter:
            for warning in adapter.warnings:
                screen.complain(f"The adapter {adapter.name}: {warning}")
    if not manager.has_chat_template and wishes.adapter is None and wishes.template is None:
        screen.complain(
            "This base has no chat template: it was probably not tuned for conversation and may "
            "answer badly. Pass --lora_model or --prompt_template."
        )
