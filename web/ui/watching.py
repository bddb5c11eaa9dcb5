"""One watcher for each open tab: the only one that draws log, side bar and what streams.

Whoever changes something says so to the tab's `Visit`; the watcher looks and sends what is new, by
three streams: what is said now, the chats, and what there is to choose from. Each has few outputs,
because Gradio makes every output of a stream anew for each update, also those that stay; and each
update has all of them (`whole`).
So it makes no difference in which tab something was done, or whether it was a tab at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from html import escape
from typing import Any

import gradio as gr

from model.adapters import Adapter
from model.types import LinlyError, Status
from web.chats.chats import MOST_LISTED
from web.chats.conversation import Conversation
from web.chats.reading import chat_request
from web.chats.reply import spoken
from web.chats.talk import Talk
from web.chats.visits import Visit
from web.i18n import say, texts
from web.i18n.refusals import refused
from web.ui.chat_view import (
    failed_value,
    live_value,
    log_value,
    meter_line,
    reading_line,
    sidebar_value,
)
from web.ui.choices import adapter_choices, template_choices
from web.ui.layout import Layout
from web.ui.shelf import Shelf

UPDATE_SECONDS = 0.05  # between two updates of a tab
CROWD_SECONDS = 0.01  # and this much more for each other reply: cores are the model's
BEAT_SECONDS = 4.0  # between two signs of life; the page counts on them
RETRY_SECONDS = 5.0  # after the store could not be read
AFAR_SECONDS = 3.0  # between two looks at what another server says, which may have died
LOOK_SECONDS = 1.0  # between two looks at the model, and at what there is to choose from

log = logging.getLogger(__name__)

Updates = dict[Any, Any]


@dataclass
class Shown:
    """What a tab has been sent already."""

    model: tuple[str, str] = ("", "")
    choices: str = ""
    elsewhere: bool = False  # another server says something there
    counts: dict[Any, int] = field(default_factory=dict)


class Watcher:
    """Updates for tabs, as their visits ask for them."""

    def __init__(self, talk: Talk, shelf: Shelf, layout: Layout) -> None:
        self._manager = talk.manager
        self._talk = talk
        self._shelf = shelf
        self._layout = layout
        self._looking: asyncio.Task[list[Adapter]] | None = None

    @property
    def drawn(self) -> list[Any]:
        """What `watch` draws."""
        ui = self._layout
        return [ui.log, ui.sidebar, ui.meter]

    @property
    def offered(self) -> list[Any]:
        """What `offer` fills."""
        ui = self._layout
        return [
            ui.status, ui.notice, ui.adapter, ui.settings.template, ui.settings.preset,
            ui.settings.shelf.snippet, *ui.compare.rivals, *ui.settings.share.outputs,
        ]  # fmt: skip

    async def watch(self, visit: Visit) -> AsyncGenerator[Updates, None]:
        """The chats, in a tab: whenever a message begins or ends, or another is shown."""
        visit.renew()
        shown = Shown()
        while await _news(visit, visit.changed, AFAR_SECONDS if shown.elsewhere else None):
            try:
                async for updates in self._chats(visit, shown):
                    yield updates
            except LinlyError as error:  # a disk that is full or gone may come back
                log.warning("%s", error)
                yield {self._layout.log: failed_value(visit.chat, str(error), visit.language)}
                await asyncio.sleep(RETRY_SECONDS)
                visit.renew()
            await asyncio.sleep(UPDATE_SECONDS)

    async def offer(self, visit: Visit) -> AsyncGenerator[Updates, None]:
        """How the model is, and what there is to choose from, whenever it is news."""
        shown = Shown()
        while not visit.closed:
            await self._look()
            updates = self._offers(visit, shown)
            if updates:
                gone = self._vanishing(updates, shown)
                if gone:
                    yield gone
                yield updates
            await _either(visit.relabelled, LOOK_SECONDS)

    def _vanishing(self, updates: Updates, shown: Shown) -> Updates:
        """Away with drop-downs that are about to offer less: Gradio's list, while it is open, would
        fail over what is missing, and never open again. `updates` bring them back."""
        gone: Updates = {}
        for box, update in updates.items():
            if not isinstance(box, gr.Dropdown):
                continue
            count = len(update["choices"])
            if count < shown.counts.get(box, 0):
                gone[box] = gr.update(visible=False)
                update["visible"] = True
            shown.counts[box] = count
        return gone

    async def listen(self, visit: Visit) -> AsyncGenerator[Updates, None]:
        """What streams in the chat that a tab shows, and signs of life. One small output: it is
        sent for each tab many times a second, and each takes Gradio a millisecond of a core."""
        live = self._layout.live
        for beat in itertools.count(1):
            if visit.closed:
                return
            replies = self._talk.replies.in_chat(visit.chat) if visit.chat else []
            yield {live: live_value(replies, beat, visit.language)}
            others = max(0, self._talk.replies.count - 1)
            await asyncio.sleep(UPDATE_SECONDS + CROWD_SECONDS * others)
            await _either(visit.heard, BEAT_SECONDS)

    async def _chats(self, visit: Visit, shown: Shown) -> AsyncGenerator[Updates, None]:
        """Log and side bar; then the meter, which takes a tokenizer's time."""
        ui, store, owner = self._layout, self._talk.store, visit.owner.id
        talk = self._talk.conversation(visit)
        shown.elsewhere = talk is not None and talk.elsewhere
        votes = store.votes(owner, talk.chat.id) if talk else []
        chats = store.chats(owner, visit.query, MOST_LISTED + 1)
        yield {
            ui.log: log_value(talk, votes, visit.language),
            ui.sidebar: sidebar_value(chats, self._talk.replies.chats(owner), visit),
        }
        if not (talk and (talk.elsewhere or self._talk.replies.in_chat(talk.chat.id))):
            yield {ui.meter: await self._meter(talk, visit)}

    async def _meter(self, talk: Conversation | None, visit: Visit) -> str:
        """How full the context is, and what is read ahead."""
        most = self._manager.context_length
        if talk is None or most is None:
            return ""
        settings = talk.chat.settings
        request = chat_request(spoken(talk.branch, settings.system), settings)
        try:
            measured = await asyncio.to_thread(self._manager.measure, request)
        except LinlyError:  # said when it is asked for
            return ""
        line = meter_line(measured.tokens, measured.context_length, visit.language)
        return line + reading_line(visit.reading, visit.language)

    async def _look(self) -> None:
        """See which adapters there are. One look serves all tabs, and one waits for it: a large
        adapter that has just come is read, and threads are few."""
        if self._looking is None or self._looking.done():
            look = asyncio.to_thread(self._manager.adapters, LOOK_SECONDS)
            self._looking = asyncio.create_task(look)
        try:
            await asyncio.shield(self._looking)
        except OSError as error:  # a disk that is gone may come back
            log.warning("The adapters cannot be looked at: %s", error)

    def _offers(self, visit: Visit, shown: Shown) -> Updates:
        try:
            return self._model(visit, shown)
        except LinlyError as error:  # a disk that is busy or gone may come back
            log.warning("%s", error)
            return {}

    def _model(self, visit: Visit, shown: Shown) -> Updates:
        """How the model is and what there is to choose from, if that is news."""
        ui, status = self._layout, self._manager.status()
        updates: Updates = {}
        line, said = status_line(status, visit.language), self._said(status, visit.language)
        if (line, said) != shown.model:
            shown.model = line, said
            visit.changed.set()  # the meter waits for a tokenizer
            updates[ui.status] = line
            updates[ui.notice] = gr.Markdown(said, visible=bool(said))
        choices = self._choices(visit)
        if str(choices) != shown.choices:
            shown.choices = str(choices)
            updates |= choices
        return updates

    def _choices(self, visit: Visit) -> Updates:
        """Whatever there is to choose from."""
        ui, language, owner = self._layout, visit.language, visit.owner.id
        presets = self._shelf.preset_choices(owner, language)
        snippets = self._shelf.snippets(owner)
        adapters = adapter_choices(self._talk, visit)
        templates = template_choices(self._manager, language)
        return {
            ui.adapter: gr.update(choices=adapters),
            ui.settings.template: gr.update(choices=templates),
            **ui.compare.offer(adapters, presets, texts(language)),
            **ui.settings.share.shown(self._talk.link, visit),
            ui.settings.preset: gr.update(choices=presets),
            ui.settings.shelf.snippet: gr.update(choices=snippets),
        }

    def _said(self, status: Status, language: str) -> str:
        """What is to be known about the model, if anything."""
        if status.ready and not self._manager.tuned:
            return say(language, "untuned")
        return refused(status.error or "", language)

    def adapters(self, visit: Visit, chosen: str) -> Updates:
        """The adapters that there are now; `chosen` becomes the one that is selected."""
        self._manager.adapters()
        choices = adapter_choices(self._talk, visit)
        return {self._layout.adapter: gr.update(choices=choices, value=chosen)}


async def whole(stream: AsyncGenerator[Updates, None]) -> AsyncGenerator[Updates, None]:
    """A stream's updates with every output as it was last.

    Gradio sends what has changed since the update before, and its client makes one out of the other
    in place. Where a page is too busy to have looked at the first, what the second leaves out is
    gone: an answer that is never shown, an adapter that cannot be chosen.
    """
    last: Updates = {}
    async with aclosing(stream) as updates:
        async for update in updates:
            last |= update
            # Copies: Gradio takes values out of what it is given.
            yield {key: dict(one) if isinstance(one, dict) else one for key, one in last.items()}


async def _news(visit: Visit, event: asyncio.Event, seconds: float | None) -> bool:
    """Wait for the event, or for so long; False once the tab is closed."""
    await _either(event, seconds)
    return not visit.closed


async def _either(event: asyncio.Event, seconds: float | None) -> None:
    """Wait for the event, or for so long; None: for as long as it takes."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    event.clear()


def status_line(status: Status, language: str) -> str:
    """The model's name, or a progress bar while it loads."""
    if status.ready:
        if status.remote:
            return escape(say(language, "ready_remote", name=status.base_model))
        facts = {"quantization": status.quantization, "device": status.device}
        return escape(say(language, "ready", name=status.base_model, **facts))
    if status.error:
        return "&nbsp;"
    percent = round(status.progress * 100)
    words = escape(say(language, f"phase_{status.phase}"))
    return (
        f'{words} <progress value="{percent}" max="100" aria-label="{words}"></progress> '
        f"{percent} %"
    )
