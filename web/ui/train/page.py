"""The Train tab's components tied to what they do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from model.types import LinlyError
from web.access import Access
from web.i18n import DEFAULT, say, texts
from web.i18n.refusals import refused
from web.ui.choices import AUTOMATIC
from web.ui.layout import Layout
from web.ui.train import layout
from web.ui.train.desk import Desk, TrainingRequestError, Wanted, name_for
from web.ui.train.view import data_view, job_view

REFRESH_SECONDS = 1.0  # while a training runs

Updates = dict[Any, Any]


class TrainTab:
    """The tab and its handlers, to be made inside of the page's tabs. Whatever they are asked, they
    ask first whether the visitor may train; nobody else is shown the tab."""

    def __init__(self, desk: Desk, access: Access, chat: Layout) -> None:
        self._desk = desk
        self._access = access
        self._chat = chat
        with gr.Tab(texts(DEFAULT)["train"], id="train", visible=False) as self._tab:
            self._layout = layout.build()
        self._timer = gr.Timer(REFRESH_SECONDS, active=False)

    def connect(
        self,
        events: dict[str, Any],
        adapters: list[Any],
        choices: Callable[[gr.Request, str], Updates],
    ) -> None:
        """Tie every event to its handler.

        Args:
            events: Gradio's settings of an event, as the chat has them.
            adapters: what `choices` updates, for a visitor and the adapter that is chosen.
        """
        ui, chat = self._layout, self._chat
        self._choices = choices
        looking = [ui.file, ui.template, ui.inputs, ui.name, chat.language]
        progress = [ui.notice, ui.start, ui.cancel, ui.chat, ui.job, self._timer, *adapters]
        now = [chat.language, chat.adapter]
        gr.on(
            [ui.file.upload, ui.file.clear, ui.template.input, ui.inputs.input],
            self.look, looking, [ui.data, ui.notice, ui.name],
            **{**events, "concurrency_limit": 1},  # large files take seconds of a core
            trigger_mode="always_last",  # else what comes while it looks would never be shown
        )  # fmt: skip
        ui.start.click(self.start, [*ui.wanted, *now], progress, **events)
        ui.cancel.click(self.cancel, now, progress, **events)
        self._timer.tick(self.refresh, now, progress, **events)
        self._tab.select(self.refresh, now, progress, **events)
        ui.chat.click(self.talk, chat.adapter, [*adapters, chat.tabs], **events)

    @property
    def arriving(self) -> list[Any]:
        """What `arrive` updates."""
        ui = self._layout
        return [self._tab, *layout.relabel(ui, DEFAULT), ui.template, ui.data, self._timer]

    def arrive(self, request: gr.Request, language: str) -> Updates:
        """What a visitor sees who has just come, or has chosen a language."""
        ui, allowed = self._layout, self.allowed(request)
        known = [(t.description or t.name, t.name) for t in self._desk.manager.templates()]
        templates = [(say(language, "train_template_auto"), AUTOMATIC), *known]
        return {
            **layout.relabel(ui, language),
            self._tab: gr.Tab(say(language, "train"), visible=allowed),
            ui.template: gr.Dropdown(templates, label=say(language, "template")),
            ui.data: gr.skip(),
            self._timer: gr.Timer(active=allowed and self._desk.running),
        }

    async def look(
        self, request: gr.Request, file: str | None, template: str, inputs: bool, name: str,
        language: str,
    ) -> Updates:  # fmt: skip
        """Show what is in the file, and suggest a name."""
        ui = self._layout
        if file is None or not self.allowed(request):
            return {ui.data: "", ui.notice: gr.Markdown(visible=False), ui.name: name}
        path = Path(file)
        try:
            seen = await asyncio.to_thread(self._desk.look, path, template or None, inputs)
        except LinlyError as error:
            said = refused(str(error).replace(str(path), path.name), language)
            return {ui.data: "", ui.notice: gr.Markdown(said, visible=True), ui.name: name}
        return {
            ui.data: data_view(seen, language),
            ui.notice: gr.Markdown(visible=False),
            ui.name: name or name_for(path),
        }

    async def start(
        self, request: gr.Request, file: str | None, name: str, template: str, epochs: float,
        rank: float, rate: float | None, description: str, inputs: bool, language: str,
        adapter: str,
    ) -> Updates:  # fmt: skip
        """Begin to train."""
        if not self.allowed(request):
            return self._refused(language)
        wanted = Wanted(
            Path(file) if file else None, name.strip(), template or None, int(epochs), int(rank),
            rate or None, description, inputs,
        )  # fmt: skip
        try:
            await asyncio.to_thread(self._desk.start, wanted)
        except TrainingRequestError as error:
            said = say(language, error.key)
        except LinlyError as error:
            said = refused(str(error), language)
        else:
            said = ""
        return await asyncio.to_thread(self._shown, request, language, adapter, said)

    def cancel(self, request: gr.Request, language: str, adapter: str) -> Updates:
        """End it after its step."""
        if not self.allowed(request):
            return self._refused(language)
        self._desk.cancel()
        return self._shown(request, language, adapter)

    def refresh(self, request: gr.Request, language: str, adapter: str) -> Updates:
        """How the training is."""
        if not self.allowed(request):
            return {self._timer: gr.Timer(active=False)}
        return self._shown(request, language, adapter)

    def talk(self, request: gr.Request, adapter: str) -> Updates:
        """On to the chat, with what was trained."""
        job = self._desk.job if self.allowed(request) else None
        chosen = job.name if job else adapter
        return {**self._choices(request, chosen), self._chat.tabs: gr.Tabs(selected="chat")}

    def allowed(self, request: gr.Request) -> bool:
        """Whether this visitor may train."""
        inner = request.request
        return inner is not None and self._access.may_train(inner.scope)

    def _refused(self, language: str) -> Updates:
        """Nothing of a training is anybody else's business."""
        return {self._layout.notice: gr.Markdown(say(language, "train_not_allowed"), visible=True)}

    def _shown(self, request: gr.Request, language: str, adapter: str, notice: str = "") -> Updates:
        ui, job = self._layout, self._desk.job
        running = self._desk.running
        updates: Updates = {
            ui.notice: gr.Markdown(notice, visible=bool(notice)),
            ui.start: gr.Button(visible=not running),
            ui.cancel: gr.Button(visible=running),
            ui.chat: gr.Button(visible=job is not None and job.phase == "done"),
            ui.job: job_view(job, language),
            self._timer: gr.Timer(active=running),
        }
        return updates if running else {**updates, **self._choices(request, adapter)}
