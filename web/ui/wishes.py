"""From what the page's controls say to how a chat is answered."""

from __future__ import annotations

from typing import Any

from web.chats.records import ChatSettings
from web.ui.presets import Preset, sampling


def chat_settings(adapter: str | None, scale: float | None, template: str | None,
                  system: str | None, *rest: Any) -> ChatSettings:  # fmt: skip
    """In the order of `Layout.wishes`. What was emptied, or never opened, arrives as None.

    Raises:
        RequestError: a number is missing or out of range.
    """
    *sliders, max_tokens, seed = rest
    return ChatSettings(
        adapter=adapter or "",
        scale=1.0 if scale is None else float(scale),
        template=template or "",
        system=system or "",
        sampling=sampling(Preset(*sliders), max_tokens, seed),
    )
