"""The page's components, and which of their texts change with the language."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import gradio as gr

from web.i18n import DEFAULT, LANGUAGES, say, texts
from web.ui.presets import FIRST, MAX_TOKENS, PRESETS

BASE = ""  # the drop-down's value for "no adapter"
AUTOMATIC = ""  # and for "whatever template belongs to it"
LATEX: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "$", "right": "$", "display": False},
    {"left": "\\(", "right": "\\)", "display": False},
]


@dataclass(frozen=True)
class Layout:
    """Every component that a handler of the chat reads or writes, and the tabs around it."""

    status: gr.HTML
    language: gr.Radio
    theme: gr.Button
    log: gr.Chatbot
    notice: gr.Markdown
    message: gr.Textbox
    send: gr.Button
    stop: gr.Button
    regenerate: gr.Button
    new_chat: gr.Button
    adapter: gr.Dropdown
    tabs: gr.Tabs
    chat_tab: gr.Tab
    settings: gr.Accordion
    preset: gr.Radio
    temperature: gr.Slider
    top_p: gr.Slider
    top_k: gr.Slider
    min_p: gr.Slider
    repetition_penalty: gr.Slider
    max_tokens: gr.Slider
    seed: gr.Number
    system: gr.Textbox
    template: gr.Dropdown

    @property
    def sliders(self) -> list[gr.Slider]:
        """Those that a preset sets, in its order."""
        return [self.temperature, self.top_p, self.top_k, self.min_p, self.repetition_penalty]


def build() -> Layout:
    """Lay the components out; call it inside a `gr.Blocks`."""
    t = texts(DEFAULT)
    with gr.Row(elem_id="top", equal_height=True):
        gr.HTML(f"<h1>{t['title']}</h1>", elem_id="title")
        status = gr.HTML(elem_id="status")
        language = gr.Radio(
            [(name, tag) for tag, name in LANGUAGES.items()], value=DEFAULT,
            label=t["language"], show_label=False, container=False, elem_id="language",
        )  # fmt: skip
        theme = gr.Button(t["theme"], size="sm", elem_id="theme", min_width=60)
    with (
        gr.Tabs(selected="chat", elem_id="tabs") as tabs,
        gr.Tab(t["chat"], id="chat") as chat_tab,
    ):
        log = gr.Chatbot(
            label=t["chat"], show_label=False, elem_id="log", height="100%", min_height=220,
            latex_delimiters=LATEX, buttons=["copy"], placeholder=t["empty_chat"],
            layout="bubble", allow_tags=False,
        )  # fmt: skip
        notice = gr.Markdown(visible=False, elem_id="notice")
        with gr.Row(elem_id="entry", equal_height=True):
            message = gr.Textbox(
                label=t["message"], placeholder=t["message_placeholder"], lines=1,
                show_label=False, max_lines=8,
                scale=6, autofocus=True, elem_id="message",
            )  # fmt: skip
            send = gr.Button(t["send"], variant="primary", scale=1, min_width=80, elem_id="send")
            stop = gr.Button(
                t["stop"], variant="stop", scale=1, min_width=80, visible=False, elem_id="stop"
            )
        with gr.Row(elem_id="tools", equal_height=True):
            adapter = gr.Dropdown(
                [(t["base"].format(name="…"), BASE)], value=BASE, label=t["adapter"], scale=3,
                min_width=200, filterable=False, elem_id="adapter",
            )  # fmt: skip
            regenerate = gr.Button(t["regenerate"], scale=1, min_width=110)
            new_chat = gr.Button(t["new_chat"], scale=1, min_width=110)
        with gr.Accordion(t["settings"], open=False, elem_id="settings") as settings:
            fields = _settings_fields(t)
    return Layout(
        status, language, theme, log, notice, message, send, stop, regenerate, new_chat, adapter,
        tabs, chat_tab, settings, *fields,
    )  # fmt: skip


def _settings_fields(t: Mapping[str, str]) -> tuple[Any, ...]:
    first = PRESETS[FIRST]
    preset = gr.Radio(preset_choices(DEFAULT), value=FIRST, label=t["preset"])
    with gr.Row():
        temperature = gr.Slider(
            0, 2, first.temperature, step=0.05, label=t["temperature"], info=t["temperature_info"]
        )
        top_p = gr.Slider(0.05, 1, first.top_p, step=0.05, label=t["top_p"])
        top_k = gr.Slider(0, 200, first.top_k, step=1, label=t["top_k"])
    with gr.Row():
        min_p = gr.Slider(0, 0.5, first.min_p, step=0.01, label=t["min_p"])
        penalty = gr.Slider(
            1, 2, first.repetition_penalty, step=0.05, label=t["repetition_penalty"]
        )
        max_tokens = gr.Slider(16, 4096, MAX_TOKENS, step=16, label=t["max_tokens"])
    with gr.Row():
        seed = gr.Number(-1, label=t["seed"], precision=0, minimum=-1)
        template = gr.Dropdown(
            [(t["template_auto"], AUTOMATIC)], value=AUTOMATIC, label=t["template"],
            filterable=False,
        )  # fmt: skip
    system = gr.Textbox(label=t["system_prompt"], info=t["system_prompt_info"], lines=2)
    return (
        preset, temperature, top_p, top_k, min_p, penalty, max_tokens, seed, system, template,
    )  # fmt: skip


def preset_choices(language: str) -> list[tuple[str, str]]:
    return [(say(language, f"preset_{name}"), name) for name in PRESETS]


def preset_values(name: str) -> list[float]:
    """The sliders' values for a preset."""
    return list(astuple(PRESETS[name]))


def relabel(layout: Layout, language: str) -> dict[Any, Any]:
    """Updates that put every fixed text of the page into `language`."""
    t = texts(language)
    labelled: Iterable[tuple[Any, dict[str, Any]]] = (
        (layout.language, {"label": t["language"], "value": language}),
        (layout.theme, {"value": t["theme"]}),
        (layout.chat_tab, {"label": t["chat"]}),
        (layout.log, {"label": t["chat"], "placeholder": t["empty_chat"]}),
        (layout.message, {"label": t["message"], "placeholder": t["message_placeholder"]}),
        (layout.send, {"value": t["send"]}),
        (layout.stop, {"value": t["stop"]}),
        (layout.regenerate, {"value": t["regenerate"]}),
        (layout.new_chat, {"value": t["new_chat"]}),
        (layout.settings, {"label": t["settings"]}),
        (layout.preset, {"label": t["preset"], "choices": preset_choices(language)}),
        (layout.temperature, {"label": t["temperature"], "info": t["temperature_info"]}),
        (layout.top_p, {"label": t["top_p"]}),
        (layout.top_k, {"label": t["top_k"]}),
        (layout.min_p, {"label": t["min_p"]}),
        (layout.repetition_penalty, {"label": t["repetition_penalty"]}),
        (layout.max_tokens, {"label": t["max_tokens"]}),
        (layout.seed, {"label": t["seed"]}),
        (layout.system, {"label": t["system_prompt"], "info": t["system_prompt_info"]}),
    )
    return {component: gr.update(**properties) for component, properties in labelled}
