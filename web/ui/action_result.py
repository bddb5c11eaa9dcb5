"""The result of an action: what the tab that asked for it is to show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from model.errors import LinlyError
from web.chats.store.models import ChatSettings
from web.chats.transfer.message_content import LeftOut
from web.ui.controls import Updates


@dataclass(frozen=True)
class ActionResult:
    """What a tab does after an action.

    Args:
        settings: a chat's settings, which the controls are to show.
        message: a sentence for the visitor.
        sent: the text to take out of the message box.
        inserted: the text to add to the message box.
        updates: of controls.
        left_out: what an imported file has and its chats cannot have, counted by kind.
        loaded_chat: the chat whose settings the controls show from now on, "" for a new one; None
            if that stays the same.
    """

    settings: ChatSettings | None = None
    message: str = ""
    sent: str = ""
    inserted: str = ""
    updates: Updates = field(default_factory=dict)
    left_out: Mapping[LeftOut, int] = field(default_factory=dict)
    loaded_chat: str | None = None


def error_sentence(error: LinlyError, language: str) -> str:
    """Returns an error as the visitor reads it."""
    return error.text.sentence(language)
