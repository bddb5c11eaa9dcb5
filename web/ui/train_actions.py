"""Actions of the Train tab: preview data, start and cancel a training; and the tab's controls."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from model.errors import LinlyError
from model.translations import redact_paths, translate
from web.chats.tab_sessions import TabSession
from web.training.service import TrainingForm, TrainingService, name_for
from web.training.uploads import Uploads
from web.ui.action_result import ActionResult, error_sentence
from web.ui.choices import AUTOMATIC
from web.ui.controls import Updates
from web.ui.request_models import Empty, Train
from web.ui.train_layout import TrainLayout, relabel
from web.ui.train_view import data_view, job_view

EPOCHS, RANK = 3, 8  # where the sliders were never moved


@dataclass(frozen=True)
class TrainActions:
    """For worker threads. The page's middleware has checked that the visitor may train."""

    service: TrainingService
    layout: TrainLayout
    uploads: Uploads

    def preview(self, tab: TabSession, body: Train) -> ActionResult:
        """Shows the uploaded data, and suggests a name."""
        ui, form = self.layout, body.form
        if not form.upload:
            return ActionResult(updates={ui.data: "", ui.notice: gr.update(visible=False)})
        path = self.uploads.path(tab.owner.id, form.upload)
        try:
            data = self.service.look(path, form.train_template, bool(form.train_inputs))
        except LinlyError as error:
            message = redact_paths(error.text).sentence(tab.language)
            return ActionResult(updates={ui.data: "", **self._notice(message)})
        return ActionResult(updates={
            ui.data: data_view(data, tab.language),
            ui.notice: gr.update(visible=False),
            ui.name: form.train_name or name_for(path),
        })  # fmt: skip

    def start(self, tab: TabSession, body: Train) -> ActionResult:
        """Begins a training."""
        form = body.form
        try:
            self.service.start(TrainingForm(
                data=self.uploads.path(tab.owner.id, form.upload or ""),
                name=(form.train_name or "").strip(),
                template=form.train_template,
                epochs=int(form.train_epochs or EPOCHS),
                rank=int(form.train_rank or RANK),
                learning_rate=form.train_rate or None,
                description=form.train_description or "",
                train_on_inputs=bool(form.train_inputs),
            ))  # fmt: skip
        except LinlyError as error:
            return ActionResult(updates=self._notice(error_sentence(error, tab.language)))
        hidden: Updates = {self.layout.notice: gr.update(visible=False)}
        return ActionResult(updates=hidden | self.updates(tab))

    def cancel(self, tab: TabSession, _: Empty) -> ActionResult:
        """Ends the training after its step."""
        self.service.cancel()
        return ActionResult(updates=self.updates(tab))

    def trained_adapter(self) -> str | None:
        """Returns the adapter of the last training, after it has been registered."""
        job = self.service.job
        self.service.manager.adapters()
        return job.name if job else None

    def updates(self, tab: TabSession) -> Updates:
        """Returns the tab as it is now; it is hidden from visitors who may not train."""
        ui, language = self.layout, tab.language
        if not tab.may_train:
            return {ui.tab: gr.update(visible=False)}
        job, running = self.service.job, self.service.running
        templates = [(t.description or t.name, t.name) for t in self.service.manager.templates()]
        return {
            **relabel(ui, language),
            ui.tab: gr.update(label=translate(language, "train"), visible=True),
            ui.template: gr.update(
                choices=[(translate(language, "train_template_auto"), AUTOMATIC), *templates],
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

    def _notice(self, message: str) -> Updates:
        return {self.layout.notice: gr.update(value=message, visible=True)}
