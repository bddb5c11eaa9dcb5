"""The chat page: components tied to what they do."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import astuple
from pathlib import Path
from typing import Any

import gradio as gr

from model.manager import ModelManager
from web.access import Access
from web.chats.identity import owner_of
from web.chats.keeping import Keeping
from web.chats.reading import ReadAhead
from web.chats.replies import Replies
from web.chats.talk import Talk
from web.chats.visits import Visit, Visits
from web.sharing import PublicLink
from web.ui import layout as page_layout
from web.ui.acting import Act, Actions
from web.ui.attempt import Attempts, Outcome
from web.ui.compare_panel import chosen
from web.ui.layout import Layout, relabel
from web.ui.presets import FIRST, PRESETS
from web.ui.shelf import Shelf
from web.ui.shelf_events import ShelfEvents
from web.ui.train.desk import Desk
from web.ui.train.page import TrainTab
from web.ui.watching import Watcher
from web.ui.wishes import chat_settings

UPLOAD_SECONDS = 86_400  # after which a file that was uploaded is cleared away
STYLE = Path(__file__).parent / "style.css"
# The visitor's own choice, else the browser's language.
ARRIVING = """(language, link) => {
  const own = localStorage.getItem('linly-language');
  const chat = new URL(location.href).searchParams.get('chat');
  return [own || (navigator.language.toLowerCase().startsWith('zh') ? 'zh' : 'en'), chat || ''];
}"""
KEEP_LANGUAGE = (
    "language => { localStorage.setItem('linly-language', language); return [language]; }"
)
TOGGLE_THEME = "() => { document.body.classList.toggle('dark'); }"

Updates = dict[Any, Any]


def build_page(
    manager: ModelManager,
    access: Access,
    keeping: Keeping,
    desk: Desk | None = None,
    link: PublicLink | None = None,
) -> gr.Blocks:
    """The page for `manager`, to be mounted; with a `desk` it has a tab for training."""
    with gr.Blocks(title="Linly Chat", fill_height=True, analytics_enabled=False,
                   delete_cache=(UPLOAD_SECONDS, UPLOAD_SECONDS)) as blocks:  # fmt: skip
        layout = page_layout.build()
        visits, store = Visits(), keeping.store
        replies = Replies(manager, store, keeping.lock.id, visits.changed, visits.spoke)
        page = Page(Talk(manager, store, visits, replies, link), access, layout)
        if desk is not None:
            page.add_training(desk, access)
        page.connect(blocks)
    return blocks


class Page:
    """The handlers. They change chats, and never draw them: the watcher does."""

    def __init__(self, talk: Talk, access: Access, layout: Layout) -> None:
        self._talk = talk
        self._access = access
        self._layout = layout
        self._shelf = Shelf(talk.store)
        self._attempts = Attempts(talk.manager, self._shelf, layout)
        self._watcher = Watcher(talk, self._shelf, layout)
        self._actions = Actions(talk)
        self._ahead = ReadAhead(talk.manager, talk)
        self._training: TrainTab | None = None

    def add_training(self, desk: Desk, access: Access) -> None:
        """Give the page its Train tab."""
        with self._layout.tabs:
            self._training = TrainTab(desk, access, self._layout)

    def connect(self, blocks: gr.Blocks) -> None:
        """Tie every event to its handler."""
        ui = self._layout
        # Many visitors at once: the engine has the queue, not the page.
        many: dict[str, Any] = {"concurrency_limit": None, "api_visibility": "private"}
        quiet: dict[str, Any] = {**many, "show_progress": "hidden"}
        # At once, and each click: Gradio would drop those that come while one is on its way.
        at_once: dict[str, Any] = {**quiet, "queue": False, "trigger_mode": "multiple"}
        controls = self._attempts.controls
        gr.on([ui.send.click, ui.message.submit], self.send, [ui.message, *ui.wishes],
              [ui.message, ui.outbox], **at_once)  # fmt: skip
        ui.regenerate.click(self.regenerate, ui.wishes, ui.outbox, **at_once)
        ui.stop.click(self.stop, None, None, **at_once)
        ui.new_chat.click(self.new_chat, None, None, **at_once)
        for drawn in (ui.log, ui.sidebar):
            drawn.act(self.act, ui.wishes, [ui.outbox, *controls], **at_once)
        latest = {**at_once, "trigger_mode": "always_last"}
        gr.on([wish.input for wish in ui.wishes], self.keep_settings, ui.wishes, None, **latest)
        ui.settings.preset.input(
            self.preset, ui.settings.preset, ui.settings.sliders, **at_once
        ).success(self.keep_settings, ui.wishes, None, **at_once)
        ui.theme.click(None, None, None, js=TOGGLE_THEME)
        self._connect_compare(at_once)
        if self._talk.link is not None:
            ui.settings.share.connect(self._talk.link, self._visit, at_once)
        ShelfEvents(self._shelf, ui, self._attempts, self._visit).connect(at_once)
        self._connect_arrival(blocks, quiet, controls)

    def _connect_arrival(
        self, blocks: gr.Blocks, quiet: dict[str, Any], controls: list[Any]
    ) -> None:
        ui = self._layout
        labels = list(relabel(ui, "en"))
        if self._training is not None:
            self._training.connect(quiet, [ui.adapter], self._watcher.adapters)
            labels += self._training.arriving
        shown = [*dict.fromkeys([*labels, ui.outbox, ui.link, *controls])]
        arrived = blocks.load(
            self.arrive, [ui.language, ui.link], shown, js=ARRIVING, **{**quiet, "queue": False}
        )
        arrived.then(self.watch, None, self._watcher.outputs, **quiet)
        ui.language.input(
            self.speak, ui.language, labels, js=KEEP_LANGUAGE, **{**quiet, "queue": False}
        )
        blocks.unload(self.leave)

    def _connect_compare(self, at_once: dict[str, Any]) -> None:
        ui = self._layout
        open_panel = gr.State(False)
        ui.compare.toggle.click(
            lambda shown: (not shown, gr.Column(visible=not shown)), open_panel,
            [open_panel, ui.compare.panel], **at_once,
        )  # fmt: skip
        ui.compare.ask.click(
            self.compare, [ui.message, *ui.compare.rivals, *ui.wishes], [ui.message, ui.outbox],
            **at_once,
        )  # fmt: skip

    def _visit(self, request: gr.Request) -> Visit:
        owner = owner_of(request, bool(self._access.accounts))
        inner = request.request
        guest = inner is not None and self._access.through_link(inner.scope)
        return self._talk.visits.of(request.session_hash or "", owner, guest)

    async def arrive(self, request: gr.Request, language: str, link: str) -> Updates:
        """A visitor has opened the page, perhaps by a link to a chat."""
        visit = self._visit(request)
        updates = self._labels(request, language)
        if link:
            updates |= self._attempts.of(visit, lambda: Outcome(self._talk.open(visit, link)))
        return updates

    async def speak(self, request: gr.Request, language: str) -> Updates:
        """A visitor has chosen a language."""
        return self._labels(request, language)

    def _labels(self, request: gr.Request, language: str) -> Updates:
        visit = self._visit(request)
        visit.language = language
        visit.renew()
        updates = relabel(self._layout, language)
        if self._training is not None:
            updates |= self._training.arrive(request, language)
        return updates

    async def watch(self, request: gr.Request) -> AsyncGenerator[Updates, None]:
        """Draw for as long as the tab is open."""
        async with aclosing(self._watcher.watch(self._visit(request))) as updates:
            async for update in updates:
                yield update

    async def send(self, request: gr.Request, message: str, *wishes: Any) -> Updates:
        """Ask. What could not be sent stays in the box."""
        visit = self._visit(request)

        def ask() -> Outcome:
            if not message.strip():
                return Outcome()
            self._ahead.cancel(visit)
            self._talk.send(visit, message, chat_settings(*wishes))
            return Outcome(updates={self._layout.message: ""})

        return self._attempts.of(visit, ask)

    async def regenerate(self, request: gr.Request, *wishes: Any) -> Updates:
        """Answer the last question once more."""
        visit = self._visit(request)
        return self._attempts.of(
            visit, lambda: self._talk.regenerate(visit, None, chat_settings(*wishes))
        )

    async def compare(self, request: gr.Request, message: str, *rest: Any) -> Updates:
        """Ask several at once: the message, or the last question where there is none."""
        visit = self._visit(request)
        (who, how), wishes = self._layout.compare.split(rest)

        def ask() -> Outcome:
            presets = self._shelf.presets(visit.owner.id)
            rivals = chosen(chat_settings(*wishes), who, how, presets)
            self._talk.compare(visit, message, rivals)
            return Outcome(updates={self._layout.message: ""})

        return self._attempts.of(visit, ask)

    async def preset(self, request: gr.Request, name: str) -> list[float]:
        """The sliders' values for a preset."""
        presets = self._shelf.presets(self._visit(request).owner.id)
        return list(astuple(presets.get(name) or PRESETS[FIRST]))

    async def stop(self, request: gr.Request) -> None:
        """End what is being said; what is there stays."""
        self._talk.stop(self._visit(request))

    async def new_chat(self, request: gr.Request) -> None:
        """Begin anew. What is being said elsewhere goes on."""
        self._talk.open(self._visit(request), None)

    async def act(self, request: gr.Request, event: gr.EventData, *wishes: Any) -> Updates:
        """Something was done in the log or in the side bar."""
        visit = self._visit(request)
        act = Act(visit, event._data or {}, lambda: chat_settings(*wishes))
        return self._attempts.of(visit, lambda: self._actions.do(act))

    async def keep_settings(self, request: gr.Request, *wishes: Any) -> None:
        """The controls stand otherwise: the chat remembers it."""
        visit = self._visit(request)

        def keep() -> None:
            settings = chat_settings(*wishes)
            before = self._talk.keep_settings(visit, settings)
            if before is not None:
                self._ahead.settings_changed(visit, before, settings)

        self._attempts.of(visit, keep)

    def leave(self, request: gr.Request) -> None:
        """The tab is closed. Its replies go on."""
        self._talk.visits.leave(request.session_hash or "")
