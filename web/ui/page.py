"""The chat page: components tied to what they do."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr

from model.adapters import Adapter
from model.manager import ModelManager
from model.types import LinlyError, Status
from web.access import Access
from web.i18n import say
from web.ui import layout as page_layout
from web.ui import markup
from web.ui.conversation import Ongoing, Replies, Turn, View, Wishes, answer
from web.ui.layout import AUTOMATIC, BASE, Layout, preset_values, relabel
from web.ui.presets import Preset, sampling
from web.ui.train.desk import Desk
from web.ui.train.page import TrainTab

REFRESH_SECONDS = 1.0  # while the model loads
UPLOAD_SECONDS = 86_400  # after which a file that was uploaded is cleared away
STYLE = Path(__file__).parent / "style.css"
# The visitor's own choice, else the browser's language.
READ_LANGUAGE = """() => {
  const own = localStorage.getItem('linly-language');
  return [own || (navigator.language.toLowerCase().startsWith('zh') ? 'zh' : 'en')];
}"""
KEEP_LANGUAGE = (
    "language => { localStorage.setItem('linly-language', language); return [language]; }"
)
TOGGLE_THEME = "() => { document.body.classList.toggle('dark'); }"

log = logging.getLogger(__name__)

Updates = dict[Any, Any]


def build_page(manager: ModelManager, access: Access, desk: Desk | None = None) -> gr.Blocks:
    """The page for `manager`, to be mounted; with a `desk` it has a tab for training."""
    with gr.Blocks(title="Linly Chat", fill_height=True, analytics_enabled=False,
                   delete_cache=(UPLOAD_SECONDS, UPLOAD_SECONDS)) as blocks:  # fmt: skip
        layout = page_layout.build()
        page = Page(manager, layout, turns=gr.State(()), timer=gr.Timer(REFRESH_SECONDS))
        if desk is not None and access.training != "off":
            page.add_training(desk, access)
        page.connect(blocks)
    return blocks


class Page:
    """The handlers. Everything about one visitor lies in `turns`, a state of the session."""

    def __init__(
        self, manager: ModelManager, layout: Layout, turns: gr.State, timer: gr.Timer
    ) -> None:
        self._manager = manager
        self._layout = layout
        self._turns = turns
        self._timer = timer
        self._replies = Replies(manager)
        self._training: TrainTab | None = None
        self._seen = gr.State("")  # the adapters as the visitor was last shown them

    def add_training(self, desk: Desk, access: Access) -> None:
        """Give the page its Train tab."""
        with self._layout.tabs:
            self._training = TrainTab(desk, access, self._layout)

    def connect(self, blocks: gr.Blocks) -> None:
        """Tie every event to its handler."""
        ui = self._layout
        wishes = [
            ui.adapter, ui.template, ui.system, *ui.sliders, ui.max_tokens, ui.seed, ui.language,
        ]  # fmt: skip
        changing = [self._turns, ui.log, ui.notice, ui.message, ui.send, ui.stop]
        choices = [ui.status, ui.notice, ui.adapter, self._seen, ui.template, self._timer]
        # Many visitors at once: the engine has the queue, not the page.
        many: dict[str, Any] = {"concurrency_limit": None, "api_visibility": "private"}
        quiet: dict[str, Any] = {**many, "show_progress": "hidden"}
        gr.on(
            [ui.send.click, ui.message.submit], self.send, [ui.message, self._turns, *wishes],
            changing, **quiet,
            # Gradio's default would drop a click while the one before, even an empty one, is on
            # its way; what must not be asked twice is refused in `send`.
            trigger_mode="multiple",
        )  # fmt: skip
        ui.regenerate.click(self.regenerate, [self._turns, *wishes], changing, **quiet)
        ui.stop.click(self.stop, None, None, queue=False, **quiet)
        # The log's own bin empties it too.
        gr.on([ui.new_chat.click, ui.log.clear], self.new_chat, None, changing, **quiet)
        ui.preset.input(preset_values, ui.preset, list(ui.sliders), queue=False, **quiet)
        ui.theme.click(None, None, None, js=TOGGLE_THEME)
        shown = [*relabel(ui, "en"), *choices]
        if self._training is not None:
            self._training.connect(quiet, [ui.adapter, self._seen], self._adapters)
            shown += self._training.arriving
        now = [ui.language, ui.adapter, ui.template]
        ui.language.input(
            self.arrive, now, shown,
            js=f"(language, ...rest) => [...({KEEP_LANGUAGE})(language), ...rest]", **quiet,
        )  # fmt: skip
        blocks.load(
            self.arrive, now, shown,
            js=f"(language, ...rest) => [...({READ_LANGUAGE})(), ...rest]", **quiet,
        )  # fmt: skip
        ui.adapter.focus(self.look_again, [ui.language, ui.adapter, self._seen],
                         [ui.adapter, self._seen], **quiet)  # fmt: skip
        self._timer.tick(self.refresh, now, choices, **quiet)
        blocks.unload(self.leave)

    async def send(
        self, request: gr.Request, message: str, turns: tuple[Turn, ...], *wishes: Any
    ) -> AsyncIterator[Updates]:
        """Ask. An empty message is not sent; neither is one while a reply is in the making."""
        if not message.strip():
            yield {self._layout.notice: gr.skip()}
            return
        ongoing = self._replies.begin(_session(request))
        if ongoing is None:
            yield {self._layout.notice: gr.skip()}
            return
        asked = (*turns, Turn("user", message))
        emptied = {self._layout.message: ""}
        async with aclosing(self._reply(asked, wishes, ongoing, request, emptied)) as replies:
            async for updates in replies:
                yield updates

    async def regenerate(
        self, request: gr.Request, turns: tuple[Turn, ...], *wishes: Any
    ) -> AsyncIterator[Updates]:
        """Answer the last question again, in place of the answer that it has."""
        last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=None)
        ongoing = self._replies.begin(_session(request)) if last is not None else None
        if last is None or ongoing is None:
            yield {self._layout.notice: gr.skip()}
            return
        kept = turns[: last + 1]
        async with aclosing(self._reply(kept, wishes, ongoing, request, {})) as replies:
            async for updates in replies:
                yield updates

    async def _reply(
        self,
        turns: tuple[Turn, ...],
        wishes: tuple[Any, ...],
        ongoing: Ongoing,
        request: gr.Request,
        at_first: Updates,
    ) -> AsyncGenerator[Updates, None]:
        """Updates while the last of `turns` is answered; `at_first` goes with the first of them."""
        try:
            yield {**self._show(View(turns)), **at_first}
            async with aclosing(answer(self._manager, turns, _wishes(*wishes), ongoing)) as views:
                async for view in views:
                    if not ongoing.discarded:
                        yield self._show(view)
        except LinlyError as error:  # the wishes themselves were wrong
            yield self._show(View(turns, str(error), busy=False))
        except Exception:
            # A fault of ours must not leave the page waiting with its Stop button for ever.
            log.exception("a reply failed")
            yield self._show(View(turns, say(wishes[-1], "fault"), busy=False))
        finally:
            self._replies.end(_session(request), ongoing)

    def stop(self, request: gr.Request) -> None:
        """End the reply; what is there stays."""
        self._replies.stop(_session(request))

    def leave(self, request: gr.Request) -> None:
        """The browser is gone: its reply ends."""
        self._replies.stop(_session(request))

    async def new_chat(self, request: gr.Request) -> Updates:
        """Begin anew, ending whatever is in the making."""
        await self._replies.discard(_session(request))
        return self._show(View((), busy=False))

    def arrive(self, request: gr.Request, language: str, adapter: str, template: str) -> Updates:
        """A visitor has opened the page or chosen a language."""
        updates = {**relabel(self._layout, language), **self.refresh(language, adapter, template)}
        if self._training is None:
            return updates
        return {**updates, **self._training.arrive(request, language)}

    def refresh(self, language: str, adapter: str, template: str) -> Updates:
        """How the model is, and once it is ready, what there is to choose from."""
        status = self._manager.status()
        ui = self._layout
        updates: Updates = {ui.status: status_line(status, language)}
        if status.error or status.ready:
            updates[self._timer] = gr.Timer(active=False)
        if status.error:
            updates[ui.notice] = gr.Markdown(status.error, visible=True)
        elif status.ready and not self._manager.tuned:
            updates[ui.notice] = gr.Markdown(say(language, "untuned"), visible=True)
        updates |= self._adapters(language, adapter)
        templates = self._template_choices(language)
        updates[ui.template] = _choose(templates, template, say(language, "template"))
        return updates

    def _adapters(self, language: str, adapter: str) -> Updates:
        """The adapters that there are now, of which `adapter` stays chosen."""
        found = self._adapter_choices(self._manager.status(), language)
        chosen = _choose(found, adapter, say(language, "adapter"))
        return {self._layout.adapter: chosen, self._seen: str(found)}

    def look_again(self, language: str, adapter: str, seen: str) -> Updates:
        """Somebody reaches for the adapters: new ones are shown, and else nothing moves."""
        updates = self._adapters(language, adapter)
        return updates if updates[self._seen] != seen else {self._seen: seen}

    def _adapter_choices(self, status: Status, language: str) -> list[tuple[str, str]]:
        base = (say(language, "base", name=status.base_model), BASE)
        found = self._manager.adapters()
        return [base, *((_adapter_label(adapter, language), adapter.name) for adapter in found)]

    def _template_choices(self, language: str) -> list[tuple[str, str]]:
        known = ((t.description or t.name, t.name) for t in self._manager.templates())
        return [(say(language, "template_auto"), AUTOMATIC), *known]

    def _show(self, view: View) -> Updates:
        ui = self._layout
        return {
            self._turns: view.turns,
            ui.log: [_bubble(turn) for turn in view.turns],
            ui.notice: gr.Markdown(view.notice, visible=bool(view.notice)),
            ui.send: gr.Button(visible=not view.busy),
            ui.stop: gr.Button(visible=view.busy),
        }


def _adapter_label(found: Adapter, language: str) -> str:
    """An adapter as the drop-down shows it: ready, with a warning, or broken and why."""
    if found.problem:
        return say(language, "broken", name=found.name, reason=found.problem.message(language))
    label = f"{found.name}: {found.description}" if found.description else found.name
    if found.warnings:
        return say(language, "warned", label=label, reason=found.warnings[0].message(language))
    return label


def _session(request: gr.Request) -> str:
    return request.session_hash or ""


def _wishes(adapter: str, template: str, system: str | None, *rest: Any) -> Wishes:
    *sliders, max_tokens, seed, language = rest
    return Wishes(
        adapter=adapter or None,
        template=template or None,
        system=system or "",  # Gradio sends None while the settings have never been opened
        sampling=sampling(Preset(*sliders), max_tokens, seed),
        language=language,
    )


def _choose(choices: list[tuple[str, str]], current: str, label: str) -> gr.Dropdown:
    values = [value for _, value in choices]
    return gr.Dropdown(choices, value=current if current in values else values[0], label=label)


def _bubble(turn: Turn) -> dict[str, str]:
    if turn.role == "user":
        return {"role": "user", "content": markup.typed(turn.text)}
    line = markup.facts(turn.facts) if turn.facts else ""
    return {"role": "assistant", "content": markup.replied(turn.text) + line}


def status_line(status: Status, language: str) -> str:
    """The model's name, or a progress bar while it loads."""
    if status.ready:
        return markup.plain(say(language, "ready", name=status.base_model, **_facts(status)))
    if status.error:
        return ""
    percent = round(status.progress * 100)
    words = markup.plain(say(language, f"phase_{status.phase}"))
    return f'{words} <progress value="{percent}" max="100"></progress> {percent} %'


def _facts(status: Status) -> dict[str, str]:
    return {"quantization": status.quantization, "device": status.device}
