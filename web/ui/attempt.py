"""What a visitor wants done, done or refused in a sentence, and what the tab gets to see of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from model.manager import ModelManager
from model.types import LinlyError
from web.chats.records import ChatSettings
from web.chats.visits import Visit
from web.i18n import say
from web.ui.layout import BASE, Layout
from web.ui.shelf import Shelf

log = logging.getLogger(__name__)

Updates = dict[Any, Any]


@dataclass(frozen=True)
class Outcome:
    """What the tab that acted is to do: show a chat's settings, save a file, tell a sentence, or
    whatever else `updates` say."""

    settings: ChatSettings | None = None
    download: Mapping[str, str] | None = None
    said: str = ""
    updates: Updates = field(default_factory=dict)


class Attempts:
    """Carries actions out, for every handler of the page."""

    def __init__(self, manager: ModelManager, shelf: Shelf, layout: Layout) -> None:
        self._manager = manager
        self._shelf = shelf
        self._layout = layout
        self._told = 0

    @property
    def controls(self) -> list[Any]:
        """What a chat's settings fill in."""
        return [*self._layout.wishes, self._layout.settings.preset]

    def of(self, visit: Visit, action: Callable[[], Outcome | None]) -> Updates:
        """Do it; updates for what came of it, or for why it could not be done."""
        try:
            outcome = action() or Outcome()
        except LinlyError as error:
            outcome = Outcome(said=str(error))
        except Exception:
            log.exception("an action failed")
            outcome = Outcome(said=say(visit.language, "fault"))
        updates = dict(outcome.updates)
        if outcome.settings is not None:
            updates |= self.filled(visit, outcome.settings)
        if outcome.said or outcome.download:
            updates[self._layout.outbox] = self._letter(outcome)
        return updates or {self._layout.outbox: gr.skip()}  # Gradio takes {} for a value

    def _letter(self, outcome: Outcome) -> dict[str, Any]:
        """For `web/ui/static/outbox.js`, which looks at each number once."""
        self._told += 1
        return {
            "n": self._told,
            "say": outcome.said or None,
            "download": dict(outcome.download) if outcome.download else None,
        }

    def filled(self, visit: Visit, settings: ChatSettings) -> Updates:
        """The controls as a chat has them; what is not there any more is left to the base."""
        ui = self._layout
        known = {adapter.name for adapter in self._manager.adapters()}
        adapter = settings.adapter if settings.adapter in known else BASE
        templates = [template.name for template in self._manager.templates()]
        presets = self._shelf.presets(visit.owner.id)
        return {ui.adapter: adapter, **ui.settings.filled(settings, templates, presets)}
