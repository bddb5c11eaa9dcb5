"""What is done in the log and the side bar: each action by its name, with what it needs.

The names are a contract with `web/ui/static/log.js` and `sidebar.js`. What comes from a browser can
be anything: whatever an action needs is looked at here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from model.types import RequestError
from web.chats import portable
from web.chats.exports import export_chat, export_chats, export_pairs
from web.chats.records import ChatSettings
from web.chats.talk import Talk
from web.chats.visits import Visit
from web.ui.attempt import Outcome

MOST_IMPORTED = 5_000_000  # characters; the page sends a larger file in parts
READS = ("export", "export_all", "pairs")  # what changes nothing, and may take its time


@dataclass(frozen=True)
class Act:
    """One action: `data` as it came, and how the controls stand."""

    visit: Visit
    data: Mapping[str, Any]
    settings: Callable[[], ChatSettings]

    @property
    def only_reads(self) -> bool:
        """Whether it can be done in a thread, beside everything else."""
        return self.data.get("kind") in READS

    def text(self, key: str) -> str:
        """A string of the data.

        Raises:
            RequestError: it is missing, or none.
        """
        value = self.data.get(key)
        if not isinstance(value, str):
            raise RequestError("The page asked for something unknown", "Reload it.")
        return value


class Actions:
    """Does what the browser asks for."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._known: dict[str, Callable[[Act], Outcome | None]] = {
            "edit": lambda a: talk.edit(a.visit, a.text("id"), a.text("text"), a.settings()),
            "regenerate": lambda a: talk.regenerate(a.visit, a.text("id"), a.settings()),
            "continue": lambda a: talk.go_on(a.visit, a.text("id"), a.settings()),
            "again": lambda a: talk.again(a.visit, a.text("id")),
            "branch": lambda a: talk.branch(a.visit, a.text("id")),
            "side_by_side": lambda a: talk.side_by_side(a.visit, a.text("id")),
            "choose": lambda a: talk.choose(a.visit, a.text("id")),
            "vote": self._vote,
            "open": self._open,
            "search": self._search,
            "rename": lambda a: talk.rename(a.visit, a.text("id"), a.text("title")),
            "delete": self._delete,
            "undo": lambda a: Outcome(settings=talk.undo(a.visit, a.text("id"))),
            "export": self._export,
            "export_all": self._export_all,
            "pairs": self._pairs,
            "import": self._import,
        }

    def do(self, act: Act) -> Outcome:
        """Carry an action out.

        Raises:
            LinlyError: it cannot be done; the sentence is for the visitor.
        """
        kind = self._known.get(act.text("kind"))
        if kind is None:
            raise RequestError("The page asked for something unknown", "Reload it.")
        return kind(act) or Outcome()

    def _vote(self, act: Act) -> None:
        winner = act.text("winner")
        self._talk.vote(act.visit, act.text("comparison"), None if winner == "tie" else winner)

    def _open(self, act: Act) -> Outcome:
        return Outcome(settings=self._talk.open(act.visit, act.text("id")))

    def _search(self, act: Act) -> None:
        act.visit.query = act.text("text")[:200]
        act.visit.renew()

    def _delete(self, act: Act) -> None:
        self._talk.delete(act.visit, act.text("id"))

    def _export(self, act: Act) -> Outcome:
        talk = self._talk.conversation(act.visit)
        if talk is None:
            raise RequestError("There is no chat to export yet", "Write a message.")
        name = portable.file_name(talk.chat)
        if act.text("format") == "markdown":
            text = "".join(portable.markdown_parts(talk.chat, talk.branch))
            return _file(f"{name}.md", "text/markdown", text)
        text = "".join(export_chat(self._talk.store, act.visit.owner.id, talk.chat.id))
        return _file(f"{name}.json", "application/json", text)

    def _export_all(self, act: Act) -> Outcome:
        text = "".join(export_chats(self._talk.store, act.visit.owner.id))
        return _file("chats.json", "application/json", text)

    def _pairs(self, act: Act) -> Outcome:
        text = "".join(export_pairs(self._talk.store, act.visit.owner.id))
        if not text:
            raise RequestError("There are no votes yet", "Compare adapters, and vote.")
        return _file("preferences.jsonl", "application/jsonl", text)

    def _import(self, act: Act) -> Outcome:
        text = act.text("text")
        if len(text) > MOST_IMPORTED:
            raise RequestError("The file is larger than 5 MB", "Import a part of it.")
        owner = act.visit.owner.id
        with self._talk.room(act.visit, len(text)):
            chats = self._talk.store.adopt(owner, portable.read_chats(text))
        self._talk.visits.changed(owner)
        if act.data.get("more") is True:  # of the same file; its last part is opened
            return Outcome()
        return Outcome(settings=self._talk.open(act.visit, chats[-1].id))


def _file(name: str, kind: str, text: str) -> Outcome:
    return Outcome(download={"name": name, "type": kind, "text": text})
