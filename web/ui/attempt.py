"""What a visitor wants done, done or refused in a sentence, and what the tab gets to see of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from model.types import LinlyError
from web.chats.records import ChatSettings
from web.chats.talk import Talk
from web.chats.visits import Visit
from web.i18n import say
from web.i18n.refusals import refused
from web.ui.choices import AUTOMATIC, BASE, Choices, adapter_choices, template_choices
from web.ui.layout import Layout
from web.ui.shelf import Shelf

log = logging.getLogger(__name__)

Updates = dict[Any, Any]


@dataclass(frozen=True)
class Outcome:
    """What the tab that acted is to do: show a chat's settings, save a file, tell a sentence, take
    what was `sent` out of the message box, or whatever else `updates` say."""

    settings: ChatSettings | None = None
    download: Mapping[str, str] | None = None
    said: str = ""
    sent: str = ""
    updates: Updates = field(default_factory=dict)


class Attempts:
    """Carries actions out, for every handler of the page."""

    def __init__(self, talk: Talk, shelf: Shelf, layout: Layout) -> None:
        self._talk = talk
        self._shelf = shelf
        self._layout = layout
        self._told = 0

    @property
    def controls(self) -> list[Any]:
        """What a chat's settings fill in."""
        return [*self._layout.wishes, self._layout.settings.preset, self._layout.filled]

    def of(self, visit: Visit, action: Callable[[], Outcome | None]) -> Updates:
        """Do it; updates for what came of it, or for why it could not be done."""
        try:
            outcome = action() or Outcome()
        except LinlyError as error:
            outcome = Outcome(said=refused(str(error), visit.language))
        except Exception:
            log.exception("an action failed")
            outcome = Outcome(said=say(visit.language, "fault"))
        updates, said = dict(outcome.updates), outcome.said
        if outcome.settings is not None:
            updates |= self.filled(visit, outcome.settings)
            said = said or self._missed(visit, outcome.settings)
        if said or outcome.download or outcome.sent or visit.lost:
            updates[self._layout.outbox] = self._letter(visit, said, outcome)
        return updates or {self._layout.outbox: gr.skip()}  # Gradio takes {} for a value

    def _letter(self, visit: Visit, said: str, outcome: Outcome) -> dict[str, Any]:
        """For `web/ui/static/outbox.js`, which looks at each number once. A tab that nobody draws
        is to load itself again, with its chat."""
        self._told += 1
        return {
            "n": self._told,
            "say": said or None,
            "download": dict(outcome.download) if outcome.download else None,
            "sent": outcome.sent or None,
            "reload": (visit.chat or "") if visit.lost else None,
        }

    def filled(self, visit: Visit, settings: ChatSettings) -> Updates:
        """The controls as a chat has them; what is not there any more is left to the base."""
        adapter = self._adapter(visit, settings.adapter)
        panel, presets = self._layout.settings, self._shelf.presets(visit.owner.id)
        return {
            self._layout.filled: visit.chat or "",
            **panel.filled(settings, presets),
            self._layout.adapter: self._chosen(visit, adapter),
            panel.template: self._template(visit, settings.template),
        }

    def begun(self, visit: Visit) -> Updates:
        """The controls for a chat to come, where the base is not for this visitor."""
        first = self._fallback(visit)
        return {} if first == BASE else {self._layout.adapter: self._chosen(visit, first)}

    def _chosen(self, visit: Visit, adapter: str) -> Any:
        """The drop-down with an adapter, whether or not it has been told yet what to offer."""
        return _with(adapter_choices(self._talk, visit), adapter)

    def _template(self, visit: Visit, template: str) -> Any:
        """And the one with a template; what is gone gives way once it is known to be."""
        choices = template_choices(self._talk.manager, visit.language)
        gone = self._talk.manager.status().ready and template not in [name for _, name in choices]
        return _with(choices, AUTOMATIC if gone else template)

    def _adapter(self, visit: Visit, adapter: str) -> str:
        """The adapter, or who goes on in its place: it is gone, or not for this visitor."""
        if not self._talk.allows(visit, adapter):
            return self._fallback(visit)
        return adapter if self._talk.has(adapter) else self._fallback(visit)

    def _fallback(self, visit: Visit) -> str:
        link = self._talk.link
        if link is None or self._talk.allows(visit, BASE):
            return BASE
        return link.first(self._talk.has)

    def _missed(self, visit: Visit, settings: ChatSettings) -> str:
        """That a chat's adapter is not there any more, if it is not."""
        adapter = self._adapter(visit, settings.adapter)
        if adapter == settings.adapter:
            return ""
        base = say(visit.language, "the_base")
        names = {"name": settings.adapter or base, "other": adapter or base}
        return say(visit.language, "adapter_gone", **names)


def _with(choices: Choices, value: str) -> Any:
    """A drop-down of these, and of the value that is shown in any case."""
    missing = [] if value in (name for _, name in choices) else [(value, value)]
    return gr.update(choices=[*choices, *missing], value=value)
