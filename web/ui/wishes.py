"""From what the page's controls say to how a chat is answered."""

from __future__ import annotations

import math
from typing import Any

from model.types import RequestError
from web.chats.records import ChatSettings
from web.ui.presets import Preset, sampling

MOST_SYSTEM = 100_000  # characters


def chat_settings(adapter: Any, scale: Any, template: Any, system: Any, *rest: Any) -> ChatSettings:
    """In the order of `Layout.wishes`. What was emptied, or never opened, arrives as None.

    Raises:
        RequestError: a number is missing or out of range, a value is none of the control's, or the
            system prompt is too long.
    """
    *sliders, max_tokens, seed = rest
    try:
        return ChatSettings(
            adapter=text(adapter),
            scale=1.0 if scale is None else _finite(scale),
            template=text(template),
            system=_not_long(text(system)),
            sampling=sampling(Preset(*sliders), max_tokens, seed),
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestError("The settings hold something unknown", "Reload the page.") from error


def text(value: Any) -> str:
    """What a box holds.

    Raises:
        RequestError: it is no text.
    """
    if value is not None and not isinstance(value, str):
        raise RequestError("The page sent something unknown", "Reload it.")
    return value or ""


def _not_long(system: str) -> str:
    """A system prompt; it is read with each question, and kept with each chat and reply.

    Raises:
        RequestError: no context holds as much.
    """
    if len(system) > MOST_SYSTEM:
        raise RequestError(
            f"The system prompt is longer than {MOST_SYSTEM} characters", "Shorten it."
        )
    return system


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return number
