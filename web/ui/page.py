"""The chat page: Gradio's components, and which of the browser's own functions their events call.

No event reaches a handler of Gradio's on the server. What a control does is told to
`static/controls.js`, which reads the controls and posts to the endpoints of `web/ui/routes.py`.
"""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from web.ui import layout as page_layout
from web.ui.layout import Layout

TOGGLE_THEME = "() => { document.dispatchEvent(new Event('linly:theme')); }"
TOGGLE_COMPARE = """() => {
  window.linlyCompares = !window.linlyCompares;
  return [{__type__: 'update', visible: window.linlyCompares}];
}"""


def build_page(whole_strengths: bool = False, trains: bool = False) -> tuple[gr.Blocks, Layout]:
    """The page, to be mounted, and its components. If it `trains`, it has a tab for that, which is
    shown to those who may."""
    with gr.Blocks(title="Linly Chat", fill_height=True, analytics_enabled=False) as blocks:
        layout = page_layout.build(whole_strengths, trains)
        _connect(layout)
    return blocks, layout


def _connect(ui: Layout) -> None:
    """Tie every event to what the browser does then."""
    # At once, and each click: Gradio would drop those that come while one is on its way.
    events: dict[str, Any] = {
        "queue": False, "trigger_mode": "multiple", "show_progress": "hidden",
        "api_visibility": "private",
    }  # fmt: skip

    def on(triggers: Any, event: str) -> None:
        gr.on(triggers, None, None, None, js=_tell(event), **events)

    shelf, share, compare = ui.settings.shelf, ui.settings.share, ui.compare
    on([ui.send.click, ui.message.submit], "send")
    on([ui.regenerate.click], "regenerate")
    on([ui.stop.click], "stop")
    on([ui.new_chat.click], "new_chat")
    # What is pasted, or comes from an input method, is no `input` to Gradio.
    on([wish.input for wish in ui.form_controls] + [b.blur for b in ui.settings.boxes], "settings")
    on([ui.settings.preset.input], "preset")
    on([ui.language.input], "language")
    on([compare.ask.click], "compare")
    on([share.revoke.click], "revoke")
    on([shelf.save_preset.click], "save_preset")
    on([shelf.delete_preset.click], "delete_preset")
    on([shelf.snippet.input], "use_snippet")
    on([shelf.save_snippet.click], "save_snippet")
    on([shelf.delete_snippet.click], "delete_snippet")
    if ui.train is not None:
        on([ui.train.template.input, ui.train.inputs.input], "train_look")
        on([ui.train.start.click], "train_start")
        on([ui.train.cancel.click], "train_cancel")
        on([ui.train.chat.click], "train_chat")
    gr.on([ui.theme.click], None, None, None, js=TOGGLE_THEME, **events)
    gr.on([compare.toggle.click], None, None, compare.panel, js=TOGGLE_COMPARE, **events)
    _connect_bridge(ui, events)


def _connect_bridge(ui: Layout, events: dict[str, Any]) -> None:
    names = json.dumps(list(ui.form))
    read = f"(...values) => {{ window.linlyControls.read({names}, values); }}"
    ui.bridge.read(None, list(ui.form.values()), None, js=read, **events)
    update = "() => window.linlyControls.next()"
    ui.bridge.update(None, None, ui.controls.components, js=update, **events)


def _tell(event: str) -> str:
    # What is done before the page's scripts have come waits for them.
    return f"() => {{ (window.linlyControl ??= []).push({json.dumps(event)}); }}"
