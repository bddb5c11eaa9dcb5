"""A chat as this program's own exports have it, read back with new ids."""

from __future__ import annotations

import uuid
from typing import Any

from web.chats.shapes import NoExportError, require_field, require_messages, role_field, time_field
from web.chats.store.models import Chat, ChatMessage, GenerationRun, MessageState, Vote
from web.chats.store.serialization import check_length, read_run, read_settings, sanitize_text
from web.chats.titles import one_line

Parts = tuple[Chat, tuple[ChatMessage, ...], tuple[Vote, ...]]

MAX_ERROR = 300  # characters: few sentences of ours are longer
MAX_RUNS = 100  # of one reply: it has one more each time that it is continued


def read_chat(raw: object) -> Parts:
    """The chat, its messages with parents before children, and its votes.

    Raises:
        RequestError: something is missing, or not as it should be.
    """
    return _Reader().read(raw)


class _Reader:
    """Reads one chat; knows the new ids of what came before."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}  # of messages, by their ids in the file
        self._comparisons: dict[str, str] = {}
        self._rivals: set[tuple[str, str]] = set()  # comparisons and their replies, in the file

    def read(self, raw: object) -> Parts:
        messages = tuple(self._message(one) for one in require_messages(raw, "messages"))
        chat = Chat(
            new_id(),
            sanitize_text(one_line(require_field(raw, "title", str))),
            time_field(raw, "created"),
            time_field(raw, "updated"),
            self._known(require_field(raw, "head", str, None)),
            read_settings(require_field(raw, "settings", dict, {}), strict=True),
        )
        votes = (self._vote(one, chat.id) for one in require_field(raw, "votes", list, []))
        return chat, messages, tuple({vote.comparison: vote for vote in votes}.values())

    def _message(self, raw: object) -> ChatMessage:
        """As its parent has to be known before, there is neither a circle nor a gap."""
        name = require_field(raw, "id", str)
        if not name or name in self._ids:
            raise NoExportError("two of its messages have the same id, or one has none")
        parent = self._known(require_field(raw, "parent", str, None))
        comparison = self._comparison(require_field(raw, "comparison", str, None), name)
        self._ids[name] = new_id()
        text = require_field(raw, "text", str)
        check_length(text)
        return ChatMessage(
            self._ids[name],
            parent,
            role_field(raw),
            sanitize_text(text),
            _state(raw),
            time_field(raw, "created"),
            sanitize_text(require_field(raw, "error", str, "")[:MAX_ERROR]),
            comparison,
            _runs(raw),
            self._ids.get(require_field(raw, "repeats", str, "")),
        )

    def _known(self, name: str | None) -> str | None:
        if name is not None and name not in self._ids:
            raise NoExportError("it refers to a message that is not there, or not before it")
        return None if name is None else self._ids[name]

    def _comparison(self, name: str | None, reply: str) -> str | None:
        if name is None:
            return None
        self._rivals.add((name, reply))
        return self._comparisons.setdefault(name, new_id())

    def _vote(self, raw: object, chat: str) -> Vote:
        name, winner = (
            require_field(raw, "comparison", str),
            require_field(raw, "winner", str, None),
        )
        if name not in self._comparisons or (winner and (name, winner) not in self._rivals):
            raise NoExportError("a vote in it is about replies that are not there")
        return Vote(self._comparisons[name], chat, self._known(winner), time_field(raw, "created"))


def new_id() -> str:
    """For a chat, a message or a comparison."""
    return uuid.uuid4().hex


def _runs(raw: Any) -> tuple[GenerationRun, ...]:
    found = require_field(raw, "runs", list, [])
    if len(found) > MAX_RUNS:
        raise NoExportError(f"a reply in it was made in over {MAX_RUNS} runs")
    return tuple(read_run(run, strict=True) for run in found)


def _state(raw: Any) -> MessageState:
    try:
        state = MessageState(require_field(raw, "state", str, MessageState.DONE.value))
    except ValueError as error:
        raise NoExportError("a message in it has an unknown state") from error
    return MessageState.INTERRUPTED if state is MessageState.STREAMING else state
