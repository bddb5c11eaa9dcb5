"""Components that JavaScript of our own draws, from the events of the page's stream.

Gradio's Chatbot is sent its whole history for each word, knows no branches and nothing to press
under a reply. These are sent what has changed.
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
AGAIN_MS = 1_000  # before what did not come is asked for once more
# If it never comes, nothing is drawn: say so.
MOUNT = """
const door = () => import(new URL('page/chat.js', document.baseURI));
door().catch(() => new Promise((later) => setTimeout(later, %d)).then(door)).then(
  (chat) => chat.mount%s(element, trigger), // it triggers %s
  () => {
    const tags = Object.keys(window.linlyWords);
    const browser = navigator.language.toLowerCase();
    const language = tags.find((tag) => browser.startsWith(tag)) ?? tags[0];
    const said = document.createElement('p');
    said.setAttribute('role', 'alert');
    said.textContent = window.linlyWords[language]['not_loaded'];
    element.replaceChildren(said);
  });
"""
EVENTS = ("read", "update")  # of the bridge: Gradio looks for their names in the script


def drawn(name: str, elem_id: str, visible: bool | Literal["hidden"] = True) -> gr.HTML:
    """A component that `mount<name>` of chat.js draws."""
    events = " and ".join(f"'{event}'" for event in EVENTS) if name == "Page" else "nothing"
    return gr.HTML(
        {}, html_template='<div class="drawn"></div>',
        js_on_load=MOUNT % (AGAIN_MS, name, events), elem_id=elem_id, apply_default_css=False,
        visible=visible, padding=False,
    )  # fmt: skip


def script_texts() -> dict[str, dict[str, str]]:
    """Every text that JavaScript shows, by language and key."""
    return {
        tag: {
            **table(tag, "scripts"),
            **{f"bar_{bar}": texts(tag)[bar] for bar in ("chats", "settings")},
        }
        for tag in languages()
    }


def head() -> str:
    """What the page's head needs: the style, and every text that JavaScript shows."""
    safe = json.dumps(script_texts(), ensure_ascii=False).replace("</", "<\\/")
    # Not through Gradio, which rewrites style: within @media it breaks selectors.
    styles = (f'<link rel="stylesheet" href="{ROUTE[1:]}/{name}.css">' for name in STYLES)
    return (
        f"{''.join(styles)}"
        f"<script>window.linlyWords = {safe};</script>"
        f'<link rel="modulepreload" href="{ROUTE[1:]}/chat.js">'
    )


@cache
def version() -> str:
    """Changes with any of the files: a tab that was opened before then loads itself again."""
    digest = hashlib.sha256()
    for path in sorted(STATIC.glob("*.*")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


class StaticFilesNoCache(StaticFiles):
    """The folder `static`. A browser asks each time whether a file is still the same, or it would
    mix the modules of two versions."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC)

    def file_response(self, full_path: Any, stat_result: Any, scope: Scope,
                      status_code: int = 200) -> Response:  # fmt: skip
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["Cache-Control"] = "no-cache"
        return response
