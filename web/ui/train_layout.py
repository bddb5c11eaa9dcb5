"""The Train tab's components, and which of their texts change with the language."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from model.translations import DEFAULT, texts
from web.ui.choices import AUTOMATIC
from web.ui.custom_components import js_component


@dataclass(frozen=True)
class TrainLayout:
    """The components of the tab. A script of the page draws `file`, and uploads it."""

    tab: gr.Tab
    about: gr.Markdown
    file: gr.HTML
    name: gr.Textbox
    description: gr.Textbox
    template: gr.Dropdown
    epochs: gr.Slider
    rank: gr.Slider
    learning_rate: gr.Number
    inputs: gr.Checkbox
    data: gr.HTML
    notice: gr.Markdown
    start: gr.Button
    cancel: gr.Button
    chat: gr.Button
    job: gr.HTML

    @property
    def form(self) -> dict[str, Any]:
        """The controls of a training, by the names of `request_models.TrainForm`."""
        return {
            "train_name": self.name, "train_template": self.template,
            "train_epochs": self.epochs, "train_rank": self.rank,
            "train_rate": self.learning_rate, "train_description": self.description,
            "train_inputs": self.inputs,
        }  # fmt: skip


def build() -> TrainLayout:
    """Lays the tab out; call it inside of the page's tabs."""
    with gr.Tab(texts(DEFAULT)["train"], id="train", elem_id="train-tab", visible=False) as tab:
        return _components(tab)


def _components(tab: gr.Tab) -> TrainLayout:
    t = texts(DEFAULT)
    about = gr.Markdown(t["train_about"])
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            file = js_component("Upload", elem_id="data")
            name = gr.Textbox(label=t["train_name"], info=t["train_name_info"], max_lines=1)
            description = gr.Textbox(label=t["train_description"], max_lines=1)
            template = gr.Dropdown(
                [(t["train_template_auto"], AUTOMATIC)], value=AUTOMATIC, label=t["template"],
                filterable=False,
            )  # fmt: skip
        with gr.Column(scale=1, min_width=220):
            epochs = gr.Slider(1, 10, 3, step=1, label=t["train_epochs"])
            rank = gr.Slider(2, 64, 8, step=2, label=t["train_rank"])
            rate = gr.Number(None, label=t["train_rate"], info=t["train_rate_info"])
            inputs = gr.Checkbox(False, label=t["train_inputs"])
    data = gr.HTML(elem_id="preview")
    notice = gr.Markdown(visible=False, elem_id="train-notice")
    with gr.Row():
        start = gr.Button(t["train_start"], variant="primary")
        cancel = gr.Button(t["train_cancel"], variant="stop", visible=False)
        chat = gr.Button(t["train_chat"], visible=False)
    job = gr.HTML(elem_id="job")
    return TrainLayout(
        tab, about, file, name, description, template, epochs, rank, rate, inputs, data, notice,
        start, cancel, chat, job,
    )  # fmt: skip


def relabel(layout: TrainLayout, language: str) -> dict[Any, Any]:
    """Returns updates that put every fixed text of the tab into `language`."""
    t = texts(language)
    labelled: Iterable[tuple[Any, dict[str, Any]]] = (
        (layout.tab, {"label": t["train"]}),
        (layout.about, {"value": t["train_about"]}),
        (layout.template, {"label": t["template"]}),
        (layout.name, {"label": t["train_name"], "info": t["train_name_info"]}),
        (layout.description, {"label": t["train_description"]}),
        (layout.epochs, {"label": t["train_epochs"]}),
        (layout.rank, {"label": t["train_rank"]}),
        (layout.learning_rate, {"label": t["train_rate"], "info": t["train_rate_info"]}),
        (layout.inputs, {"label": t["train_inputs"]}),
        (layout.start, {"value": t["train_start"]}),
        (layout.cancel, {"value": t["train_cancel"]}),
        (layout.chat, {"value": t["train_chat"]}),
    )
    return {component: gr.update(**properties) for component, properties in labelled}
