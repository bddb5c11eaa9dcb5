"""What visitors do on the page: each action by its name, with the values that it takes.

Names and values are a contract with `static/actions.js`. What comes from a browser can be anything:
pydantic refuses values of another type or size, and ids are looked up among the visitor's own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, StringConstraints

from model.errors import LinlyError, RequestError
from model.translations import languages
from web.chats.chat_service import ChatService
from web.chats.prefill_ahead import PrefillAhead
from web.chats.store.models import ChatSettings, SavedPreset
from web.chats.tab_sessions import TabSession
from web.chats.transfer.import_file import read_chats
from web.ui.compare_panel import MAX_RIVALS, chosen
from web.ui.control_updates import ControlUpdates
from web.ui.controls import Updates
from web.ui.form_values import Body, FormValues, Name, Text
from web.ui.layout import Layout
from web.ui.library import PromptLibrary
from web.ui.presets import FIRST, PRESETS
from web.ui.train_actions import TrainActions, TrainForm

log = logging.getLogger(__name__)

MAX_QUERY = 200  # characters of a search
TIE = "tie"


class Nothing(Body):
    """No values."""


class Of(Body):
    """A message or a chat, by its id."""

    id: Name


class Ask(Body):
    text: Text = ""
    form: FormValues


class Form(Body):
    form: FormValues


class Regenerate(Form):
    """A reply by its id, or the last one that is shown."""

    id: Name | None = None


class OfForm(Of):
    form: FormValues


class Edit(OfForm):
    text: Text


class Vote(Body):
    """`winner` is a reply's id, or `TIE`."""

    comparison: Name
    winner: Name


class Search(Body):
    text: Annotated[str, StringConstraints(max_length=10_000)]


class Rename(Of):
    title: Annotated[str, StringConstraints(max_length=10_000)]


class Rival(Body):
    adapter: Name
    preset: Name


class Compare(Ask):
    rivals: Annotated[list[Rival], Field(max_length=MAX_RIVALS)]


class Named(Body):
    name: Name | None = None


class SavePreset(Named):
    form: FormValues


class SnippetText(Named):
    message: Text | None = None


def _in_language(tag: str) -> str:
    if tag not in languages():
        raise ValueError("there are no texts in that language")
    return tag


class Language(Body):
    language: Annotated[str, AfterValidator(_in_language)]


class Train(Body):
    form: TrainForm


class Export(Body):
    kind: Literal["json", "markdown", "all", "pairs"]


@dataclass(frozen=True)
class ActionResult:
    """What the tab that acted is to do: show a chat's settings, tell a sentence, take what was
    `sent` out of the message box, put `inserted` behind what is in it, bring controls up to date.
    `loaded_chat` is the chat that the controls are about from now on, "" for one to come, if that
    is another one."""

    settings: ChatSettings | None = None
    said: str = ""
    sent: str = ""
    inserted: str = ""
    updates: Updates = field(default_factory=dict)
    loaded_chat: str | None = None


Does = Callable[[TabSession, Any], ActionResult | None]
B = TypeVar("B", bound=Body)


class Actions:
    """Does what the browser asks for. For worker threads, one at a time for a visitor."""

    def __init__(
        self,
        chat_service: ChatService,
        shelf: PromptLibrary,
        layout: Layout,
        controls: ControlUpdates,
        ahead: PrefillAhead,
        training: TrainActions | None = None,
    ) -> None:
        self._chat_service = chat_service
        self._shelf = shelf
        self._layout = layout
        self._controls = controls
        self._ahead = ahead
        self.known: dict[str, tuple[type[Body], Does]] = {
            "send": (Ask, self._send),
            "regenerate": (Regenerate, self._regenerate),
            "stop": (Nothing, lambda v, _: chat_service.stop(v)),
            "new_chat": (Nothing, self._new_chat),
            "open": (Of, lambda v, b: ActionResult(chat_service.chat_list.open(v, b.id))),
            "edit": (Edit, self._edit),
            "continue": (OfForm, self._continue),
            "again": (Of, lambda v, b: chat_service.rerun_exactly(v, b.id)),
            "branch": (Of, lambda v, b: chat_service.shown_chat.show_branch(v, b.id)),
            "side_by_side": (Of, lambda v, b: chat_service.shown_chat.show_comparison(v, b.id)),
            "choose": (Of, lambda v, b: chat_service.shown_chat.choose(v, b.id)),
            "vote": (Vote, self._vote),
            "search": (Search, self._search),
            "rename": (Rename, lambda v, b: chat_service.chat_list.rename(v, b.id, b.title)),
            "delete": (Of, lambda v, b: chat_service.chat_list.delete(v, b.id)),
            "undo": (Of, lambda v, b: ActionResult(chat_service.chat_list.restore(v, b.id))),
            "compare": (Compare, self._compare),
            "settings": (Form, self._settings_changed),
            "preset": (Named, self._preset),
            "language": (Language, self._language),
            "save_preset": (SavePreset, self._save_preset),
            "delete_preset": (Named, self._delete_preset),
            "use_snippet": (Named, self._use_snippet),
            "save_snippet": (SnippetText, self._save_snippet),
            "delete_snippet": (Named, self._delete_snippet),
            "revoke": (Nothing, self._revoke),
        }
        if training is not None:
            self.known |= {
                "train_look": (Train, lambda v, b: ActionResult(updates=training.look(v, b.form))),
                "train_start": (
                    Train,
                    lambda v, b: ActionResult(updates=training.start(v, b.form)),
                ),
                "train_cancel": (Nothing, lambda v, _: ActionResult(updates=training.cancel(v))),
                "train_chat": (Nothing, lambda v, _: self._train_chat(v, training)),
            }

    def do(self, visit: TabSession, kind: str, body: Body) -> dict[str, Any]:
        """Carry an action out; what the tab is told of it.

        Raises:
            LinlyError: it cannot be done; the sentence is for the visitor.
        """
        return self.told(visit, lambda: self.known[kind][1](visit, body))

    def adopt(self, visit: TabSession, text: str, more: bool) -> dict[str, Any]:
        """Import chats from a file's text; of one that comes in parts, the last one is opened.

        Raises:
            LinlyError
        """

        def adopted() -> ActionResult:
            owner = visit.owner.id
            with self._chat_service.limits.reserve_quota(visit, len(text)):
                chats = self._chat_service.store.import_chats(owner, read_chats(text))
            self._chat_service.tab_sessions.notify_changed(owner)
            if more:
                return ActionResult()
            return ActionResult(self._chat_service.chat_list.open(visit, chats[-1].id))

        return self.told(visit, adopted)

    def told(self, visit: TabSession, action: Callable[[], ActionResult | None]) -> dict[str, Any]:
        """Do something; what the tab is told of it."""
        outcome = action() or ActionResult()
        updates, said, loaded_chat = dict(outcome.updates), outcome.said, outcome.loaded_chat
        if outcome.settings is not None:
            updates |= self._controls.fill(visit, outcome.settings)
            said = said or self._controls.missed(visit, outcome.settings)
            loaded_chat = visit.chat or ""
        return {
            "say": said or None,
            "sent": outcome.sent or None,
            "inserted": outcome.inserted or None,
            "chat": visit.chat,
            "loaded_chat": loaded_chat,
            "lost": visit.lost,
            "controls": self._layout.controls.encode(updates),
        }

    def _form(self, visit: TabSession, form: FormValues) -> ChatSettings:
        """What the controls say, unless they are still those of the chat that was shown before."""
        own = self._chat_service.chat_list.settings(visit)
        return form.settings() if own is None or form.loaded_chat == visit.chat else own

    def _in_step(
        self, visit: TabSession, form: FormValues, action: Callable[[], ActionResult]
    ) -> ActionResult:
        """Do it, and see to it that the controls are about the chat that is shown then: a new one
        has them as they are, and an older one fills them, as the update that should have filled
        them has not come, or came too early."""
        before = visit.chat
        try:
            outcome = action()
        except LinlyError as error:
            if visit.chat == before:
                raise
            # The chat has begun, and what is chosen from now on is for that one.
            return ActionResult(
                said=error_sentence(error, visit.language), loaded_chat=visit.chat or ""
            )
        if visit.chat != before:
            return _with(outcome, loaded_chat=visit.chat or "")
        with suppress(LinlyError):  # what could not be read was told already
            own = self._chat_service.chat_list.settings(visit)
            if own is not None and form.loaded_chat != visit.chat:
                return _with(outcome, settings=own)
        return outcome

    def _send(self, visit: TabSession, body: Ask) -> ActionResult:
        """Ask. What could not be sent stays in the box, and so does what was typed meanwhile."""

        def ask() -> ActionResult:
            if not body.text.strip():
                return ActionResult()
            self._chat_service.send(visit, body.text, self._form(visit, body.form))
            return ActionResult(sent=body.text)

        return self._in_step(visit, body.form, ask)

    def _regenerate(self, visit: TabSession, body: Regenerate) -> None:
        self._chat_service.regenerate(visit, body.id, self._form(visit, body.form))

    def _edit(self, visit: TabSession, body: Edit) -> None:
        self._chat_service.edit(visit, body.id, body.text, self._form(visit, body.form))

    def _continue(self, visit: TabSession, body: OfForm) -> None:
        self._chat_service.continue_reply(visit, body.id, self._form(visit, body.form))

    def _new_chat(self, visit: TabSession, _: Body) -> ActionResult:
        """Begin anew. What is being said in another chat goes on."""
        self._chat_service.chat_list.open(visit, None)
        return ActionResult(loaded_chat="")

    def _vote(self, visit: TabSession, body: Vote) -> None:
        winner = None if body.winner == TIE else body.winner
        self._chat_service.shown_chat.vote(visit, body.comparison, winner)

    def _search(self, visit: TabSession, body: Search) -> None:
        visit.query = body.text[:MAX_QUERY]
        visit.request_redraw()

    def _compare(self, visit: TabSession, body: Compare) -> ActionResult:
        """Ask several at once: the message, or the last question where there is none."""

        def ask() -> ActionResult:
            presets = self._shelf.presets(visit.owner.id)
            settings = self._form(visit, body.form)
            places = [(rival.adapter, rival.preset) for rival in body.rivals]
            rivals = chosen(settings, places, presets)
            self._chat_service.compare(visit, body.text, rivals, settings)
            return ActionResult(sent=body.text if body.text.strip() else "")

        return self._in_step(visit, body.form, ask)

    def _settings_changed(self, visit: TabSession, body: Form) -> ActionResult:
        """The controls stand otherwise: the chat that they are about remembers it, though another
        one may have been opened since."""

        def keep() -> ActionResult:
            settings, chat = body.form.settings(), body.form.loaded_chat or ""
            before = self._chat_service.chat_list.save_settings(visit, chat, settings)
            if before is not None and chat == visit.chat:
                self._ahead.settings_changed(visit, before, settings)
            return ActionResult()

        return self._in_step(visit, body.form, keep)

    def _preset(self, visit: TabSession, body: Named) -> ActionResult:
        """The sliders' values for a preset."""
        preset = self._shelf.presets(visit.owner.id).get(body.name or "") or PRESETS[FIRST]
        sliders = self._layout.settings.sliders
        return ActionResult(updates=dict(zip(sliders, astuple(preset), strict=True)))

    def _language(self, visit: TabSession, body: Language) -> None:
        visit.language = body.language
        visit.request_redraw()
        visit.refresh_controls()

    def _save_preset(self, visit: TabSession, body: SavePreset) -> ActionResult:
        """Keep the sampling as it is set."""
        saved = SavedPreset(body.name or "", body.form.settings().sampling)
        with self._chat_service.limits.reserve_quota(visit, len(saved.name)):
            value = self._shelf.save_preset(visit.owner.id, saved)
        self._chat_service.tab_sessions.notify_library_changed(visit.owner.id)
        cleared: Updates = {self._layout.settings.shelf.preset_name: ""}
        return ActionResult(updates=self._controls.presets(visit, value) | cleared)

    def _delete_preset(self, visit: TabSession, body: Named) -> ActionResult:
        """Forget the chosen one; the sliders stay."""
        self._shelf.delete_preset(visit.owner.id, body.name)
        self._chat_service.tab_sessions.notify_library_changed(visit.owner.id)
        return ActionResult(updates=self._controls.presets(visit, None))

    def _use_snippet(self, visit: TabSession, body: Named) -> ActionResult:
        """Put a prompt behind what is in the message box. It can then be chosen again."""
        panel = self._layout.settings.shelf
        return ActionResult(
            inserted=self._shelf.snippet(visit.owner.id, body.name),
            updates={panel.snippet: None, panel.snippet_name: body.name or ""},
        )

    def _save_snippet(self, visit: TabSession, body: SnippetText) -> None:
        """Keep what is in the message box."""
        text = body.message or ""
        with self._chat_service.limits.reserve_quota(visit, len(text)):
            self._shelf.save_snippet(visit.owner.id, body.name or "", text)
        self._chat_service.tab_sessions.notify_library_changed(visit.owner.id)

    def _delete_snippet(self, visit: TabSession, body: Named) -> ActionResult:
        """Forget the prompt of that name."""
        self._shelf.delete_snippet(visit.owner.id, body.name)
        self._chat_service.tab_sessions.notify_library_changed(visit.owner.id)
        return ActionResult(updates={self._layout.settings.shelf.snippet_name: ""})

    def _revoke(self, visit: TabSession, _: Body) -> None:
        """End the public link; visitors of it cannot."""
        if self._chat_service.limits.link is None or visit.guest:
            raise RequestError("no_link_to_revoke")
        self._chat_service.limits.link.revoke()
        for tab in self._chat_service.tab_sessions:
            tab.refresh_controls()
            if tab.guest:
                tab.request_redraw()  # its stream looks whether the link has ended

    def _train_chat(self, visit: TabSession, training: TrainActions) -> ActionResult:
        ui = self._layout
        updates = training.chosen(lambda name: {ui.adapter: self._controls.adapter(visit, name)})
        selected: Updates = {ui.tabs: {"__type__": "update", "selected": "chat"}}
        return ActionResult(updates=updates | selected)


def error_sentence(error: LinlyError, language: str) -> str:
    """What a visitor is told of an error."""
    return error.text.sentence(language)


def _with(outcome: ActionResult, **more: Any) -> ActionResult:
    values: Mapping[str, Any] = {**vars(outcome), **more}
    return ActionResult(**values)
