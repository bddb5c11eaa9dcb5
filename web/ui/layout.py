"""The page's components, and which of their texts change with the language."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from web.i18n import DEFAULT, LANGUAGES, texts
from web.ui.choices import BASE
from web.ui.compare_panel import ComparePanel
from web.ui.drawn import drawn
from web.ui.settings_panel import SettingsPanel


@dataclass(frozen=True)
class Layout:
    """Every component that a handler of the chat reads or writes, and the tabs around it.

    `live` and `outbox` show nothing: they carry what streams, and what is downloaded or told once.
    `link` is the chat that the page's address names, `filled` the one whose settings the controls
    show: they follow a moment after a chat has been opened.
    """

    status: gr.HTML
    meter: gr.HTML
    language: gr.Radio
    theme: gr.Button
    chats: gr.Sidebar
    new_chat: gr.Button
    sidebar: gr.HTML
    log: gr.HTML
    live: gr.HTML
    outbox: gr.HTML
    link: gr.Textbox
    filled: gr.Textbox
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

    @property
    def wishes(self) -> list[Any]:
        """How the visitor wants to be answered, in the order of `wishes.chat_settings`."""
        return [self.adapter, *self.settings.wishes]


def build(whole_strengths: bool = False) -> Layout:
    """Lay the components out; call it inside a `gr.Blocks`. With `whole_strengths`, an adapter is
    served at strength 0 or 1 alone."""
    t = texts(DEFAULT)
    with gr.Sidebar(label=t["chats"], width=300, elem_id="chats") as chats:
        sidebar = drawn("Sidebar", elem_id="sidebar")
    settings = SettingsPanel.build(whole_strengths)
    with gr.Row(elem_id="top", equal_height=True):
        gr.HTML(f"<h1>{t['title']}</h1>", elem_id="title")
        status = gr.HTML(elem_id="status")
        meter = gr.HTML(elem_id="meter")
        language = gr.Radio(
            [(name, tag) for tag, name in LANGUAGES.items()], value=DEFAULT,
            label=t["language"], show_label=False, container=False, elem_id="language",
        )  # fmt: skip
        theme = gr.Button(t["theme"], size="sm", elem_id="theme", min_width=60)
    with (
        gr.Tabs(selected="chat", elem_id="tabs") as tabs,
        gr.Tab(t["chat"], id="chat") as chat_tab,
    ):
        log = drawn("Log", elem_id="log")
        notice = gr.Markdown(visible=False, elem_id="notice")
        with gr.Row(elem_id="entry", equal_height=True):
            message = gr.Textbox(
                label=t["message"], placeholder=t["message_placeholder"], lines=1,
                show_label=False, max_lines=8,
                scale=6, autofocus=True, elem_id="message",
            )  # fmt: skip
            send = gr.Button(t["send"], variant="primary", scale=1, min_width=80, elem_id="send")
            stop = gr.Button(t["stop"], variant="stop", scale=1, min_width=80, elem_id="stop")
        with gr.Row(elem_id="tools", equal_height=True):
            adapter = gr.Dropdown(
                [(t["base"].format(name="…"), BASE)], value=BASE, label=t["adapter"], scale=3,
                min_width=200, filterable=False, elem_id="adapter",
            )  # fmt: skip
            regenerate = gr.Button(t["regenerate"], scale=1, min_width=110)
            new_chat = gr.Button(t["new_chat"], scale=1, min_width=110)
            toggle = ComparePanel.button()
        compare = ComparePanel.build(toggle)
    live = drawn("Live", elem_id="live", visible="hidden")
    outbox = drawn("Outbox", elem_id="outbox", visible="hidden")
    drawn("Entry", elem_id="keyboard", visible="hidden")
    link, filled = gr.Textbox(visible=False), gr.Textbox("", visible=False)
    return Layout(
        status, meter, language, theme, chats, new_chat, sidebar, log, live, outbox, link, filled,
        notice, message, send, stop, regenerate, adapter, tabs, chat_tab, settings, compare,
    )  # fmt: skip


def relabel(layout: Layout, language: str) -> dict[Any, Any]:
    """Updates that put every fixed text of the page into `language`."""
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
