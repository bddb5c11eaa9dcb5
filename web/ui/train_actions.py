"""What the Train tab asks for: a look at uploaded data, a training, its end; and what it shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import gradio as gr
from pydantic import Field, StringConstraints

from model.errors import LinlyError
from model.translations import redact_paths, translate
from web.chats.tab_sessions import TabSession
from web.training.service import TrainingForm, TrainingService, name_for
from web.training.uploads import Uploads
from web.ui.choices import AUTOMATIC
from web.ui.controls import Updates
from web.ui.form_values import Body, Name, Number
from web.ui.train_layout import TrainLayout, relabel
from web.ui.train_view import data_view, job_view

EPOCHS, RANK = 3, 8  # where the sliders were never touched
MAX_EPOCHS, MAX_RANK = 100, 1_024


class TrainForm(Body):
    """The tab's controls, and the token of the file that was uploaded."""

    upload: Annotated[str, StringConstraints(max_length=100)] | None = None
    train_name: Name | None = None
    train_template: Name | None = None
    train_epochs: Annotated[float, Field(ge=1, le=MAX_EPOCHS)] | None = None
    train_rank: Annotated[float, Field(ge=1, le=MAX_RANK)] | None = None
    train_rate: Number = None
    train_description: Name | None = None
    train_inputs: bool | None = None


@dataclass(frozen=True)
class TrainActions:
    """For worker threads; the page's middleware has seen to it that the visitor may train.

    `adapter` updates the adapters' drop-down so that one of them is chosen.
    """

    desk: TrainingService
    layout: TrainLayout
    uploads: Uploads

    def look(self, visit: TabSession, form: TrainForm) -> Updates:
        """Show what is in the file, and suggest a name."""
        ui = self.layout
        if not form.upload:
            return {ui.data: "", ui.notice: gr.update(visible=False)}
        path = self.uploads.path(visit.owner.id, form.upload)
        try:
            seen = self.desk.look(path, form.train_template or None, bool(form.train_inputs))
        except LinlyError as error:
            said = redact_paths(error.text).sentence(visit.language)
            return {ui.data: "", **self._notice(said)}
        return {
            ui.data: data_view(seen, visit.language),
            ui.notice: gr.update(visible=False),
            ui.name: form.train_name or name_for(path),
        }

    def start(self, visit: TabSession, form: TrainForm) -> Updates:
        """Begin to train."""
        try:
            data = self.uploads.path(visit.owner.id, form.upload or "")
            self.desk.start(TrainingForm(
                data, (form.train_name or "").strip(), form.train_template or None,
                int(form.train_epochs or EPOCHS), int(form.train_rank or RANK),
                form.train_rate or None, form.train_description or "", bool(form.train_inputs),
            ))  # fmt: skip
        except LinlyError as error:
            return self._notice(error.text.sentence(visit.language))
        return {self.layout.notice: gr.update(visible=False), **self.updates(visit)}

    def cancel(self, visit: TabSession) -> Updates:
        """End it after its step."""
        self.desk.cancel()
        return self.updates(visit)

    def chosen(self, choose: Callable[[str], Updates]) -> Updates:
        """On to the chat, with what was trained; `choose` selects an adapter."""
        job = self.desk.job
        self.desk.manager.adapters()
        return choose(job.name) if job else {}

    def updates(self, visit: TabSession) -> Updates:
        """The tab as it is now: nothing of a training is shown to those who may not train."""
        ui, language = self.layout, visit.language
        if not visit.may_train:
            return {ui.tab: gr.update(visible=False)}
        job, running = self.desk.job, self.desk.running
        known = [(t.description or t.name, t.name) for t in self.desk.manager.templates()]
        return {
            **relabel(ui, language),
            ui.tab: gr.update(label=translate(language, "train"), visible=True),
            ui.template: gr.update(
                choices=[(translate(language, "train_template_auto"), AUTOMATIC), *known],
                label=translate(language, "template"),
            ),
            ui.start: gr.update(value=translate(language, "train_start"), visible=not running),
            ui.cancel: gr.update(value=translate(language, "train_cancel"), visible=running),
            ui.chat: gr.update(
                value=translate(language, "train_chat"),
                visible=job is not None and job.phase == "done",
            ),
            ui.job: job_view(job, language),
        }

    def _notice(self, said: str) -> Updates:
        return {self.layout.notice: gr.update(value=said, visible=True)}


def _without_folder(text: str, path: Path) -> str:
    return text.replace(str(path), path.name)
