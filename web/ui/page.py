"""The chat page: Gradio's components, and the JavaScript functions that their events call.

No event reaches a Gradio handler on the server. Each event goes to `static/actions.js`, which reads
the controls and posts to the endpoints of `web/ui/routes.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gradio as gr

from web.ui import layout as page_layout
from web.ui.layout import Layout
from web.ui.train_layout import TrainLayout

TOGGLE_THEME = "() => { document.dispatchEvent(new Event('linly:theme')); }"
TOGGLE_COMPARE = """() => {
  window.linlyCompares = !window.linlyCompares;
  return [{__type__: 'update', visible: window.linlyCompares}];
}"""


def build_page(only_0_or_1: bool = False, trains: bool = False) -> tuple[gr.Blocks, Layout]:
    """Returns the page and its components.

    Args:
        only_0_or_1: an adapter's scale is 0 or 1, and nothing between.
        trains: the page has a Train tab, which is shown to visitors who may train.
    """
    with gr.Blocks(title="Linly Chat", fill_height=True, analytics_enabled=False) as blocks:
        layout = page_layout.build(only_0_or_1, trains)
        _connect(layout)
    return blocks, layout


def _connect(ui: Layout) -> None:
    """Connects every event to its function in the browser."""
    # Every click counts: Gradio would drop clicks while an earlier one is being handled.
    options: dict[str, Any] = {
        "queue": False, "trigger_mode": "multiple", "show_progress": "hidden",
        "api_visibility": "private",
    }  # fmt: skip

    def on(triggers: Any, event: str) -> None:
        gr.on(triggers, None, None, None, js=_push_action(event), **options)

    library, share, compare = ui.settings.library, ui.settings.share, ui.compare
    on([ui.send.click, ui.message.submit], "send")
    on([ui.regenerate.click], "regenerate")
    on([ui.stop.click], "stop")
    on([ui.new_chat.click], "new_chat")
    # For pasted text, and text from an input method, Gradio sends no `input`.
    blurs = [box.blur for box in ui.settings.text_boxes]
    on([control.input for control in ui.form_controls] + blurs, "settings")
    on([ui.settings.preset.input], "preset")
    on([ui.language.input], "language")
    on([compare.ask.click], "compare")
    on([share.revoke.click], "revoke")
    on([library.save_preset.click], "save_preset")
    on([library.delete_preset.click], "delete_preset")
    on([library.snippet.input], "use_snippet")
    on([library.save_snippet.click], "save_snippet")
    on([library.delete_snippet.click], "delete_snippet")
    if ui.train is not None:
        _connect_train(ui.train, on)
    gr.on([ui.theme.click], None, None, None, js=TOGGLE_THEME, **options)
    gr.on([compare.toggle.click], None, None, compare.panel, js=TOGGLE_COMPARE, **options)
    _connect_bridge(ui, options)


def _connect_train(ui: TrainLayout, on: Callable[[Any, str], None]) -> None:
    on([ui.template.input, ui.inputs.input], "train_look")
    on([ui.start.click], "train_start")
    on([ui.cancel.click], "train_cancel")
    on([ui.chat.click], "train_chat")


def _connect_bridge(ui: Layout, options: dict[str, Any]) -> None:
    """Connects the events through which the page's scripts read and update the controls."""
    names, settings = json.dumps(list(ui.form)), json.dumps(["adapter", *ui.settings.form])
    read = f"(...values) => {{ window.linlyControls.read({names}, values, {settings}); }}"
    ui.bridge.read(None, list(ui.form.values()), None, js=read, **options)
    update = "() => window.linlyControls.next()"
    ui.bridge.update(None, None, ui.controls.components, js=update, **options)


def _push_action(event: str) -> str:
    # Until the page's scripts are loaded, actions wait in this list.
    return f"() => {{ (window.linlyControl ??= []).push({json.dumps(event)}); }}"
