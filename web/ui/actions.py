"""The page's actions by name: what each takes, and which function handles it.

Names and values are a contract with `static/actions.js`. The handlers are in `reply_actions`,
`chat_actions`, `settings_actions`, `library_actions` and `train_actions`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from web.chats.chat_service import ChatService
from web.chats.prefill_ahead import PrefillAhead
from web.chats.tab_sessions import TabSession
from web.ui.action_result import ActionResult
from web.ui.chat_actions import ChatActions
from web.ui.control_updates import ControlUpdates
from web.ui.controls import Encoded
from web.ui.form_sync import FormSync
from web.ui.form_values import Body
from web.ui.layout import Layout
from web.ui.library_actions import LibraryActions
from web.ui.prompt_library import PromptLibrary
from web.ui.reply_actions import ReplyActions
from web.ui.request_models import (
    ById,
    ByIdWithForm,
    ByName,
    Compare,
    Edit,
    Empty,
    Form,
    Language,
    Regenerate,
    Rename,
    SavePreset,
    SaveSnippet,
    Search,
    Send,
    Train,
    Vote,
)
from web.ui.settings_actions import SettingsActions
from web.ui.train_actions import TrainActions


class Action(NamedTuple):
    """A request body and the function that handles it."""

    body: type[Body]
    handle: Callable[[TabSession, Any], ActionResult | None]


class Actions:
    """Runs the actions that browsers ask for. For worker threads, one at a time for a visitor."""

    def __init__(
        self,
        chat_service: ChatService,
        library: PromptLibrary,
        layout: Layout,
        controls: ControlUpdates,
        prefill_ahead: PrefillAhead,
        training: TrainActions | None = None,
    ) -> None:
        self._layout = layout
        self._controls = controls
        sync = FormSync(chat_service.chat_list)
        self._chats = ChatActions(chat_service)
        self.registered: dict[str, Action] = {
            **_reply_actions(ReplyActions(chat_service, library, sync)),
            **_chat_actions(self._chats),
            **_settings_actions(
                SettingsActions(chat_service, library, layout, prefill_ahead, sync)
            ),
            **_library_actions(LibraryActions(chat_service, library, layout, controls)),
        }
        if training is not None:
            self.registered |= self._train_actions(training)

    def run(self, tab: TabSession, kind: str, body: Body) -> dict[str, Any]:
        """Runs an action; returns the response.

        Raises:
            LinlyError: it cannot be done; the sentence is for the visitor.
        """
        return self._response(tab, self.registered[kind].handle(tab, body))

    def import_chats(self, tab: TabSession, text: str, more: bool) -> dict[str, Any]:
        """Imports chats from a file's text, `more` of which may follow; returns the response.

        Raises:
            LinlyError
        """
        return self._response(tab, self._chats.import_chats(tab, text, more))

    def _response(self, tab: TabSession, result: ActionResult | None) -> dict[str, Any]:
        result = result or ActionResult()
        updates, message, loaded_chat = dict(result.updates), result.message, result.loaded_chat
        if result.settings is not None:
            updates |= self._controls.fill(tab, result.settings)
            message = message or self._controls.missing_adapter(tab, result.settings)
            loaded_chat = tab.chat or ""
        controls = self._layout.controls.encode(updates)
        return {
            "say": message or None,
            "sent": result.sent or None,
            "inserted": result.inserted or None,
            "left_out": result.left_out,
            "chat": tab.chat,
            "loaded_chat": loaded_chat,
            "lost": tab.lost,
            "controls": controls,
            "order": _order(tab, controls),
        }

    def _train_actions(self, training: TrainActions) -> dict[str, Action]:
        def chat_with_trained(tab: TabSession, _: Empty) -> ActionResult:
            name = training.trained_adapter()
            return ActionResult(updates=self._controls.open_chat_tab(tab, name))

        return {
            "train_look": Action(Train, training.preview),
            "train_start": Action(Train, training.start),
            "train_cancel": Action(Empty, training.cancel),
            "train_chat": Action(Empty, chat_with_trained),
        }


def _order(tab: TabSession, controls: Encoded) -> int | None:
    """Returns the number of a response's updates, which the tab's stream, if any, then confirms."""
    if tab.lost or not controls:
        return None
    order = tab.control_order.next_response(number for number, _ in controls)
    tab.refresh_controls()
    return order


def _reply_actions(replies: ReplyActions) -> dict[str, Action]:
    return {
        "send": Action(Send, replies.send),
        "compare": Action(Compare, replies.compare),
        "edit": Action(Edit, replies.edit),
        "regenerate": Action(Regenerate, replies.regenerate),
        "continue": Action(ByIdWithForm, replies.continue_reply),
        "again": Action(ById, replies.rerun_exactly),
        "stop": Action(Empty, replies.stop),
    }


def _chat_actions(chats: ChatActions) -> dict[str, Action]:
    return {
        "new_chat": Action(Empty, chats.new_chat),
        "open": Action(ById, chats.open),
        "search": Action(Search, chats.search),
        "rename": Action(Rename, chats.rename),
        "delete": Action(ById, chats.delete),
        "undo": Action(ById, chats.restore),
        "branch": Action(ById, chats.show_branch),
        "side_by_side": Action(ById, chats.show_comparison),
        "choose": Action(ById, chats.choose),
        "vote": Action(Vote, chats.vote),
    }


def _settings_actions(settings: SettingsActions) -> dict[str, Action]:
    return {
        "settings": Action(Form, settings.change_settings),
        "preset": Action(ByName, settings.apply_preset),
        "language": Action(Language, settings.set_language),
        "revoke": Action(Empty, settings.revoke_link),
    }


def _library_actions(library: LibraryActions) -> dict[str, Action]:
    return {
        "save_preset": Action(SavePreset, library.save_preset),
        "delete_preset": Action(ByName, library.delete_preset),
        "use_snippet": Action(ByName, library.use_snippet),
        "save_snippet": Action(SaveSnippet, library.save_snippet),
        "delete_snippet": Action(ByName, library.delete_snippet),
    }
