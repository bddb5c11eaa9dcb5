"""The panel of the public link, for its owner: QR code, limits, and a button that ends it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from model.translations import DEFAULT, texts, translate
from web.chats.tab_sessions import TabSession
from web.public_link.limits import HOUR, PublicLink
from web.ui.controls import Updates


@dataclass(frozen=True)
class SharePanel:
    """A part of the settings that is hidden from visitors of the link."""

    panel: gr.Accordion
    share_link: gr.HTML
    revoke: gr.Button

    @classmethod
    def build(cls) -> SharePanel:
        """Lays the panel out; call it inside of the settings."""
        t = texts(DEFAULT)
        with gr.Accordion(t["share"], open=True, visible=False, elem_id="share") as panel:
            link = gr.HTML(elem_id="link")
            revoke = gr.Button(t["share_revoke"], variant="stop", size="sm")
        return cls(panel, link, revoke)

    def labels(self, t: Mapping[str, str]) -> Iterable[tuple[Any, dict[str, Any]]]:
        """Returns the panel's texts."""
        return ((self.panel, {"label": t["share"]}), (self.revoke, {"value": t["share_revoke"]}))

    @property
    def outputs(self) -> list[Any]:
        return [self.panel, self.share_link, self.revoke]

    def updates(self, link: PublicLink | None, tab: TabSession) -> Updates:
        """Returns the link's state; the panel is hidden from the link's visitors."""
        if link is None or tab.guest:
            return {self.panel: gr.update(visible=False)}
        return {
            self.panel: gr.update(visible=True),
            self.share_link: describe(link, tab.language),
            self.revoke: gr.update(visible=link.address is not None and not link.closed),
        }


def describe(link: PublicLink, language: str) -> str:
    """Returns the link's state as HTML."""
    if link.problem:
        return f"<p>{escape(link.problem.sentence(language))}</p>"
    if link.closed:
        return f"<p>{escape(translate(language, 'share_closed'))}</p>"
    if link.address is None:
        return f"<p>{escape(translate(language, 'share_opening'))}</p>"
    address = escape(link.address)
    lines = "".join(f"<p>{escape(line)}</p>" for line in _facts(link, language))
    return (
        f"{_qr_code(link.address, translate(language, 'share_code'))}"
        f'<p><a href="{address}" target="_blank" rel="noopener">{address}</a></p>{lines}'
    )


def _facts(link: PublicLink, language: str) -> list[str]:
    rules = link.rules
    facts = [translate(language, "share_use", visitors=link.visitors, replies=link.replies)]
    if link.passphrase:
        facts.insert(0, translate(language, "share_passphrase", passphrase=link.passphrase))
    if link.until is not None:
        hours = max(0.0, (link.until - link.clock()) / HOUR)
        facts.append(translate(language, "share_until", hours=f"{hours:.1f}"))
    if rules.messages is not None:
        facts.append(translate(language, "share_messages", messages=rules.messages))
    if rules.adapters is not None:
        facts.append(translate(language, "share_adapters", adapters=", ".join(rules.adapters)))
    return facts


def _qr_code(address: str, label: str) -> str:
    """Returns a QR code as SVG: dark on white in any theme, as some scanners need."""
    import segno

    drawing = io.BytesIO()
    segno.make(address, error="m").save(
        drawing, kind="svg", scale=4, xmldecl=False, light="white", omitsize=True
    )
    text = escape(label)
    return f'<div class="code" role="img" aria-label="{text}">{drawing.getvalue().decode()}</div>'
