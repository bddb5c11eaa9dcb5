"""Keeps the page's controls in step with the chat that the tab shows.

Responses can overtake each other, so a request may bring the values of controls that still show
another chat's settings.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from model.errors import LinlyError
from web.chats.chat_list import ChatList
from web.chats.store.models import ChatSettings
from web.chats.tab_sessions import TabSession
from web.ui.action_result import ActionResult, error_sentence
from web.ui.form_values import FormValues


class FormSync:
    """Reads forms for the chat that a tab shows, and corrects controls of another chat."""

    def __init__(self, chat_list: ChatList) -> None:
        self._chat_list = chat_list

    def settings(self, tab: TabSession, form: FormValues) -> ChatSettings:
        """Returns the form's settings, or the chat's own if the controls show another chat's."""
        stored = self._chat_list.settings(tab)
        return form.settings() if stored is None or form.loaded_chat == tab.chat else stored

    def run(
        self, tab: TabSession, form: FormValues, action: Callable[[], ActionResult]
    ) -> ActionResult:
        """Runs an action, then has the controls show the settings of the tab's chat.

        A chat that the action began takes the controls as they are. If an older chat's settings are
        not in the controls, because that update is late or came too early, they are sent again.
        """
        before = tab.chat
        try:
            result = action()
        except LinlyError as error:
            if tab.chat == before:
                raise
            # The chat has begun, so later changes of the controls are for that one.
            message = error_sentence(error, tab.language)
            return ActionResult(message=message, loaded_chat=tab.chat or "")
        if tab.chat != before:
            return replace(result, loaded_chat=tab.chat or "")
        with suppress(LinlyError):  # a store that fails has been reported already
            stored = self._chat_list.settings(tab)
            if stored is not None and form.loaded_chat != tab.chat:
                return replace(result, settings=stored)
        return result
