"""The chat page: components tied to what they do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import astuple
from functools import partial
from typing import Any

import gradio as gr

from model.manager import ModelManager
from model.types import LinlyError
from web.access import Access
from web.chats.identity import Owner, owner_of
from web.chats.keeping import Keeping
from web.chats.reading import ReadAhead
from web.chats.records import ChatSettings
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
from web.ui.watching import Watcher, whole
from web.ui.wishes import chat_settings, text

UPLOAD_SECONDS = 86_400  # after which a file that was uploaded is cleared away
# The visitor's own choice, else the browser's language. Without cookies there is no storage either.
ARRIVING = """(language, link) => {
  let own = null;
  try { own = localStorage.getItem('linly-language'); } catch { /* nothing is kept */ }
  const chat = new URL(location.href).searchParams.get('chat');
  return [own || (navigator.language.toLowerCase().startsWith('zh') ? 'zh' : 'en'), chat || ''];
}"""
KEEP_LANGUAGE = """language => {
  try { localStorage.setItem('linly-language', language); } catch { /* nothing is kept */ }
  return [language];
}"""
# Which chat the controls are about: another one may be on its way already.
OF_CHAT = """(chat, ...wishes) => [
  new URL(location.href).searchParams.get('chat') || '', ...wishes
]"""
TOGGLE_THEME = "() => { document.dispatchEvent(new Event('linly:theme')); }"

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
        layout = page_layout.build(whole_strengths=manager.status().remote)
        visits, store = Visits(keeping.others), keeping.store
        replies = Replies(manager, store, keeping.lock.id, visits.changed, visits.spoke,
                          visits.saved, keeping.others)  # fmt: skip
        talk = Talk(manager, store, visits, replies, link, keeping.mend)
        page = Page(talk, access, layout)
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
        self._attempts = Attempts(talk, self._shelf, layout)
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
        # What a control says is looked at by us: Gradio refuses a choice that is gone by now.
        ours = {"queue": False, "preprocess": False}
        at_once: dict[str, Any] = {**quiet, **ours, "trigger_mode": "multiple"}
        controls = self._attempts.controls
        of_chat: dict[str, Any] = {**at_once, "js": OF_CHAT}
        stand = [ui.filled, *ui.wishes]  # how the controls stand, and for which chat
        told = [ui.outbox, *controls]
        gr.on([ui.send.click, ui.message.submit], self.send, [ui.link, ui.message, *stand],
              told, **of_chat)  # fmt: skip
        ui.regenerate.click(self.regenerate, [ui.link, *stand], ui.outbox, **of_chat)
        ui.stop.click(self.stop, ui.link, ui.outbox, **of_chat)
        ui.new_chat.click(self.new_chat, None, [ui.outbox, ui.filled], **at_once)
        for drawn in (ui.log, ui.sidebar):
            drawn.act(self.act, stand, told, **at_once)
        # What is pasted, or comes from an input method, is no `input` to Gradio.
        changed = [wish.input for wish in ui.wishes] + [box.blur for box in ui.settings.boxes]
        latest = {**at_once, "trigger_mode": "always_last"}
        gr.on(changed, self.keep_settings, stand, told, **latest)
        ui.settings.preset.input(
            self.preset, ui.settings.preset, ui.settings.sliders, **at_once
        ).success(self.keep_settings, stand, told, **at_once)
        ui.theme.click(None, None, None, js=TOGGLE_THEME)
        self._connect_compare(at_once, of_chat)
        if self._talk.link is not None:
            ui.settings.share.connect(self._talk.link, self._known, at_once)
        ShelfEvents(self._shelf, ui, self._attempts, self._known, self._talk.room).connect(at_once)
        self._connect_arrival(blocks, quiet, controls)

    def _connect_arrival(
        self, blocks: gr.Blocks, quiet: dict[str, Any], controls: list[Any]
    ) -> None:
        ui = self._layout
        labels = list(relabel(ui, "en"))
        if self._training is not None:
            self._training.connect(
                quiet,
                [ui.adapter],
                lambda asked, name: self._watcher.adapters(self._known(asked), name),
            )
            labels += self._training.arriving
        shown = [*dict.fromkeys([*labels, ui.outbox, ui.link, *controls])]
        came = [ui.language, ui.link]
        blocks.load(self.arrive, came, shown, js=ARRIVING, **{**quiet, "queue": False})
        # Values as they are: Gradio would carry each through a thread of its own.
        raw = {**quiet, "preprocess": False, "postprocess": False}
        blocks.load(self.watch, came, self._watcher.drawn, js=ARRIVING, **raw)
        blocks.load(self.listen, None, ui.live, **raw)
        blocks.load(self.offer, None, self._watcher.offered, **quiet)
        ui.language.input(
            self.speak, ui.language, labels, js=KEEP_LANGUAGE, **{**quiet, "queue": False}
        )
        blocks.unload(self.leave)

    def _connect_compare(self, at_once: dict[str, Any], of_chat: dict[str, Any]) -> None:
        ui = self._layout
        open_panel = gr.State(False)
        ui.compare.toggle.click(
            lambda shown: (not shown, gr.Column(visible=not shown)), open_panel,
            [open_panel, ui.compare.panel], **at_once,
        )  # fmt: skip
        ui.compare.ask.click(
            self.compare, [ui.link, ui.message, *ui.compare.rivals, ui.filled, *ui.wishes],
            [ui.outbox, *self._attempts.controls], **of_chat,
        )  # fmt: skip

    def _visit(self, request: gr.Request) -> Visit:
        owner, guest = self._who(request)
        return self._talk.visits.of(request.session_hash or "", owner, guest)

    def _known(self, request: gr.Request, chat: Any = "") -> Visit:
        """The tab of a request, as it is; where it is not known here any more, one that shows the
        chat of the page's address."""
        owner, guest = self._who(request)
        visit = self._talk.visits.find(request.session_hash or "", owner, guest)
        if visit.lost and text(chat):
            with contextlib.suppress(LinlyError):
                self._talk.open(visit, text(chat))
        return visit

    def _who(self, request: gr.Request) -> tuple[Owner, bool]:
        inner = request.request
        guest = inner is not None and self._access.through_link(inner.scope)
        return owner_of(request, bool(self._access.accounts)), guest

    def _settings(self, visit: Visit, filled: Any, *wishes: Any) -> ChatSettings:
        """What the controls say, unless they are still those of the chat that was shown before."""
        own = self._talk.settings(visit)
        return chat_settings(*wishes) if own is None or text(filled) == visit.chat else own

    def _in_step(self, visit: Visit, filled: Any, action: Callable[[], Outcome | None]) -> Updates:
        """Do it, and see to it that the controls are about the chat that is shown then: a new one
        has them as they are, and an older one fills them, as whatever should have filled them has
        not come, or came too early."""
        before = visit.chat
        updates = self._attempts.of(visit, action)
        if visit.chat != before:
            return {**updates, self._layout.filled: visit.chat or ""}
        with contextlib.suppress(LinlyError):  # what could not be read was told already
            own = self._talk.settings(visit)
            if own is not None and text(filled) != visit.chat:
                return {**self._attempts.filled(visit, own), **updates}
        return updates

    async def arrive(self, request: gr.Request, language: str, link: str) -> Updates:
        """A visitor has opened the page, perhaps by a link to a chat."""
        visit = self._visit(request)
        self._talk.visits.follow(self._talk.hear)
        updates = self._labels(request, visit, language) | self._attempts.begun(visit)
        if link:
            updates |= self._attempts.of(visit, lambda: Outcome(self._talk.open(visit, link)))
        return updates

    async def speak(self, request: gr.Request, language: str) -> Updates:
        """A visitor has chosen a language."""
        return self._labels(request, self._known(request), language)

    def _labels(self, request: gr.Request, visit: Visit, language: str) -> Updates:
        visit.language = language
        visit.renew()
        visit.relabelled.set()
        updates = relabel(self._layout, language)
        if self._training is not None:
            updates |= self._training.arrive(request, language)
        return updates

    async def watch(
        self, request: gr.Request, language: str, link: str
    ) -> AsyncGenerator[Updates, None]:
        """Draw for as long as the tab is open: at once what it was opened for, without waiting for
        `arrive`, which has far more to do."""
        visit = self._visit(request)
        visit.language = language
        if link and visit.chat is None:
            with contextlib.suppress(LinlyError):  # `arrive` says so
                self._talk.open(visit, link)
        async with aclosing(whole(self._watcher.watch(visit))) as updates:
            async for update in updates:
                yield update

    async def offer(self, request: gr.Request) -> AsyncGenerator[Updates, None]:
        """Keep up what there is to choose from, for as long as the tab is open."""
        async with aclosing(whole(self._watcher.offer(self._visit(request)))) as updates:
            async for update in updates:
                yield update

    async def listen(self, request: gr.Request) -> AsyncGenerator[Updates, None]:
        """Tell what is said, for as long as the tab is open."""
        async with aclosing(self._watcher.listen(self._visit(request))) as updates:
            async for update in updates:
                yield update

    async def send(self, request: gr.Request, chat: Any, message: str, *controls: Any) -> Updates:
        """Ask. What could not be sent stays in the box, and so does what was typed meanwhile."""
        visit = self._known(request, chat)

        def ask() -> Outcome:
            if not text(message).strip():
                return Outcome()
            self._talk.send(visit, message, self._settings(visit, *controls))
            return Outcome(sent=message)

        return self._in_step(visit, controls[0], ask)

    async def regenerate(self, request: gr.Request, chat: Any, *controls: Any) -> Updates:
        """Answer the last question once more."""
        visit = self._known(request, chat)
        return self._attempts.of(
            visit, lambda: self._talk.regenerate(visit, None, self._settings(visit, *controls))
        )

    async def compare(self, request: gr.Request, chat: Any, message: str, *rest: Any) -> Updates:
        """Ask several at once: the message, or the last question where there is none."""
        visit = self._known(request, chat)
        (who, how), controls = self._layout.compare.split(rest)

        def ask() -> Outcome:
            presets = self._shelf.presets(visit.owner.id)
            settings = self._settings(visit, *controls)
            rivals = chosen(settings, who, how, presets)
            self._talk.compare(visit, text(message), rivals, settings)
            sent = text(message) if text(message).strip() else ""
            return Outcome(sent=sent)

        return self._in_step(visit, controls[0], ask)

    async def preset(self, request: gr.Request, name: str) -> list[float]:
        """The sliders' values for a preset."""
        presets = self._shelf.presets(self._who(request)[0].id)
        return list(astuple(presets.get(str(name)) or PRESETS[FIRST]))

    async def stop(self, request: gr.Request, chat: Any) -> Updates:
        """End what is being said; what is there stays."""
        visit = self._known(request, chat)
        return self._attempts.of(visit, lambda: self._talk.stop(visit))

    async def new_chat(self, request: gr.Request) -> Updates:
        """Begin anew. What is being said elsewhere goes on."""
        visit = self._known(request)

        def begin() -> Outcome:
            self._talk.open(visit, None)
            return Outcome(updates={self._layout.filled: ""})

        return self._attempts.of(visit, begin)

    async def act(self, request: gr.Request, event: gr.EventData, *controls: Any) -> Updates:
        """Something was done in the log or in the side bar."""
        data = event._data if isinstance(event._data, dict) else {}
        visit = self._known(request, data.get("chat"))
        act = Act(visit, data, lambda: self._settings(visit, *controls))
        do = partial(self._attempts.of, visit, lambda: self._actions.do(act))
        return await asyncio.to_thread(do) if act.only_reads else do()

    async def keep_settings(self, request: gr.Request, filled: Any, *wishes: Any) -> Updates:
        """The controls stand otherwise: the chat that they are about remembers it, though another
        one may have been opened since."""
        visit = self._known(request, filled)

        def keep() -> None:
            settings = chat_settings(*wishes)
            before = self._talk.keep_settings(visit, text(filled), settings)
            if before is not None and text(filled) == visit.chat:
                self._ahead.settings_changed(visit, before, settings)

        return self._in_step(visit, filled, keep)

    async def leave(self, request: gr.Request) -> None:
        """The tab is closed. Its replies go on."""
        self._talk.visits.leave(request.session_hash or "")
