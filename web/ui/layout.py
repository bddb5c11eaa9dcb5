"""The page's components and their texts, which change with the language."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gradio as gr

from model.translations import DEFAULT, languages, texts
from web.ui.choices import BASE
from web.ui.compare_panel import ComparePanel
from web.ui.controls import Controls
from web.ui.custom_components import js_component
from web.ui.settings_panel import SettingsPanel
from web.ui.train_layout import TrainLayout
from web.ui.train_layout import build as train_layout
from web.ui.train_layout import relabel as train_relabel


@dataclass(frozen=True)
class Layout:
    """Every component that events read or updates change, and the tabs around it.

    The page's own scripts draw `log` and `sidebar`. `bridge` shows nothing: through it those
    scripts read and update Gradio's controls.
    """

    status: gr.HTML
    meter: gr.HTML
    language: gr.Radio
    theme: gr.Button
    chats: gr.Sidebar
    new_chat: gr.Button
    sidebar: gr.HTML
    log: gr.HTML
    bridge: gr.HTML
    notice: gr.Markdown
    message: gr.Textbox
    send: gr.Button
    stop: gr.Button
    regenerate: gr.Button
    adapter: gr.Dropdown
    tabs: gr.Tabs
    chat_tab: gr.Tab
    settings: SettingsPanel
    compare: ComparePanel
    train: TrainLayout | None = None

    @property
    def form_controls(self) -> list[Any]:
        """The controls of a chat's settings."""
        return [self.adapter, *self.settings.form_controls]

    @property
    def form(self) -> dict[str, Any]:
        """The controls that the browser reads, by name; see `static/controls.js`."""
        library = self.settings.library
        train = self.train.form if self.train is not None else {}
        return {
            "language": self.language, "adapter": self.adapter,
            **self.settings.form, "preset": self.settings.preset,
            **{f"rival_{n}": box for n, box in enumerate(self.compare.adapters)},
            **{f"rival_preset_{n}": box for n, box in enumerate(self.compare.presets)},
            "preset_name": library.preset_name, "snippet": library.snippet,
            "snippet_name": library.snippet_name, **train,
        }  # fmt: skip

    @cached_property
    def controls(self) -> Controls:
        """Every component that is updated, by number."""
        train = self.train
        trains = [] if train is None else [
            *train_relabel(train, DEFAULT), train.data, train.notice, train.job,
        ]  # fmt: skip
        return Controls([
            *relabel(self, DEFAULT), *self.form.values(), self.status, self.meter, self.notice,
            self.tabs, *self.settings.share.outputs, *trains,
        ])  # fmt: skip


def build(only_0_or_1: bool = False, trains: bool = False) -> Layout:
    """Lays the components out; call it inside a `gr.Blocks`.

    Args:
        only_0_or_1: an adapter's scale is 0 or 1, and nothing between.
        trains: the page has a Train tab.
    """
    t = texts(DEFAULT)
    with gr.Sidebar(label=t["chats"], width=300, elem_id="chats") as chats:
        sidebar = js_component("Sidebar", elem_id="sidebar")
    settings = SettingsPanel.build(only_0_or_1)
    top = _build_top(t)
    with gr.Tabs(selected="chat", elem_id="tabs") as tabs:
        with gr.Tab(t["chat"], id="chat", elem_id="chat-tab") as chat_tab:
            chat = _build_chat(t)
        train = train_layout() if trains else None
    bridge = js_component("Page", elem_id="bridge", visible="hidden")
    return Layout(
        **top, **chat, chats=chats, sidebar=sidebar, bridge=bridge, tabs=tabs, chat_tab=chat_tab,
        settings=settings, train=train,
    )  # fmt: skip


def _build_top(t: Mapping[str, str]) -> dict[str, Any]:
    """Returns the components of the top line, by the names of `Layout`'s fields."""
    with gr.Row(elem_id="top", equal_height=True):
        gr.HTML(f"<h1>{t['title']}</h1>", elem_id="title")
        status = gr.HTML(elem_id="status")
        meter = gr.HTML(elem_id="meter")
        language = gr.Radio(
            [(name, tag) for tag, name in languages().items()], value=DEFAULT,
            label=t["language"], show_label=False, container=False, elem_id="language",
        )  # fmt: skip
        theme = gr.Button(t["theme"], size="sm", elem_id="theme", min_width=60)
    return {"status": status, "meter": meter, "language": language, "theme": theme}


def _build_chat(t: Mapping[str, str]) -> dict[str, Any]:
    """Returns the components of the Chat tab, by the names of `Layout`'s fields."""
    log = js_component("Log", elem_id="log")
    notice = gr.Markdown(visible=False, elem_id="notice")
    with gr.Row(elem_id="entry", equal_height=True):
        message = gr.Textbox(
            label=t["message"], placeholder=t["message_placeholder"], lines=1,
            show_label=False, max_lines=8, scale=6, autofocus=True, elem_id="message",
            interactive=True,  # which Gradio would not guess, as no event reads it
        )  # fmt: skip
        send = gr.Button(t["send"], variant="primary", scale=1, min_width=80, elem_id="send")
        stop = gr.Button(t["stop"], variant="stop", scale=1, min_width=80, elem_id="stop")
    with gr.Row(elem_id="tools", equal_height=True):
        adapter = gr.Dropdown(
            [(t["base"].format(name="…"), BASE)], value=BASE, label=t["adapter"], scale=3,
            min_width=200, filterable=False, elem_id="adapter",
        )  # fmt: skip
        regenerate = gr.Button(t["regenerate"], scale=1, min_width=110)
        new_chat = gr.Button(t["new_chat"], scale=1, min_width=110, elem_id="new-chat")
        toggle = ComparePanel.button()
    return {
        "log": log, "notice": notice, "message": message, "send": send, "stop": stop,
        "adapter": adapter, "regenerate": regenerate, "new_chat": new_chat,
        "compare": ComparePanel.build(toggle),
    }  # fmt: skip


def relabel(layout: Layout, language: str) -> dict[Any, Any]:
    """Returns updates that put every fixed text of the page into `language`."""
    t = texts(language)
    labelled: Iterable[tuple[Any, dict[str, Any]]] = (
        (layout.language, {"label": t["language"], "value": language}),
        (layout.theme, {"value": t["theme"]}),
        (layout.chats, {"label": t["chats"]}),
        (layout.chat_tab, {"label": t["chat"]}),
        (layout.message, {"label": t["message"], "placeholder": t["message_placeholder"]}),
        (layout.send, {"value": t["send"]}),
        (layout.stop, {"value": t["stop"]}),
        (layout.regenerate, {"value": t["regenerate"]}),
        (layout.new_chat, {"value": t["new_chat"]}),
        (layout.adapter, {"label": t["adapter"]}),
        *layout.settings.labels(t),
        *layout.compare.labels(t),
    )
    return {component: gr.update(**properties) for component, properties in labelled}
