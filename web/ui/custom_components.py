"""Components that the page's own scripts draw, from the events of the page's stream.

Gradio's Chatbot is sent its complete history for each word, and has neither branches nor buttons
under a reply. These components are sent only what has changed.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

import gradio as gr
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from model.translations import languages, table, texts

STATIC = Path(__file__).parent / "static"
ROUTE = "/page"
STYLES = ("page", "sidebars", "controls", "train", "chat")
RETRY_MS = 1_000  # before a script that could not be loaded is requested once more
# If it fails again, the component shows a sentence instead.
MOUNT = """
const load = () => import(new URL('page/chat.js', document.baseURI));
load().catch(() => new Promise((resolve) => setTimeout(resolve, %d)).then(load)).then(
  (chat) => chat.mount%s(element, trigger), // it triggers %s
  () => {
    const tags = Object.keys(window.linlyTexts);
    const browser = navigator.language.toLowerCase();
    const language = tags.find((tag) => browser.startsWith(tag)) ?? tags[0];
    const alert = document.createElement('p');
    alert.setAttribute('role', 'alert');
    alert.textContent = window.linlyTexts[language]['not_loaded'];
    element.replaceChildren(alert);
  });
"""
EVENTS = ("read", "update")  # of the bridge: Gradio searches the script for their names


def js_component(name: str, elem_id: str, visible: bool | Literal["hidden"] = True) -> gr.HTML:
    """Returns a component that `mount<name>` of chat.js draws."""
    events = " and ".join(f"'{event}'" for event in EVENTS) if name == "Page" else "nothing"
    return gr.HTML(
        {}, html_template='<div class="js-component"></div>',
        js_on_load=MOUNT % (RETRY_MS, name, events), elem_id=elem_id, apply_default_css=False,
        visible=visible, padding=False,
    )  # fmt: skip


def script_texts() -> dict[str, dict[str, str]]:
    """Returns every text that JavaScript shows, by language and key."""
    return {
        tag: {
            **table(tag, "scripts"),
            **{f"bar_{bar}": texts(tag)[bar] for bar in ("chats", "settings")},
        }
        for tag in languages()
    }


def head() -> str:
    """Returns the styles and texts for the page's head, as HTML."""
    safe = json.dumps(script_texts(), ensure_ascii=False).replace("</", "<\\/")
    # Not through Gradio, which rewrites styles: within @media it breaks selectors.
    styles = (f'<link rel="stylesheet" href="{ROUTE[1:]}/{name}.css">' for name in STYLES)
    return (
        f"{''.join(styles)}"
        f"<script>window.linlyTexts = {safe};</script>"
        f'<link rel="modulepreload" href="{ROUTE[1:]}/chat.js">'
    )


@cache
def version() -> str:
    """Returns a digest of all files. A tab with scripts of another version reloads itself."""
    digest = hashlib.sha256()
    for path in sorted(STATIC.glob("*.*")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


class StaticFilesNoCache(StaticFiles):
    """Serves the folder `static`. Browsers revalidate each file on every use; otherwise they would
    mix the modules of two versions."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC)

    def file_response(self, full_path: Any, stat_result: Any, scope: Scope,
                      status_code: int = 200) -> Response:  # fmt: skip
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["Cache-Control"] = "no-cache"
        return response
