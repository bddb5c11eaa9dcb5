"""Events that the replicas of the program publish: whose chats have changed, and what to stop.

Other users of the database may listen, so events contain neither names nor texts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Protocol


@dataclass(frozen=True)
class ReplicaEvent:
    """An event about an owner, given by `owner_digest`: their chats have changed, or replies in one
    of them are to stop.

    `stop` is the id of a chat, and `message` of the reply in it, "" for all replies. `chat` is a
    `chat_digest`, if the event is about that chat alone; where only a reply `grew`, other chats
    need no redraw. `again` asks every replica to publish its latest stops once more.
    """

    owner: str
    stop: str = ""
    message: str = ""
    chat: str = ""
    grew: bool = False
    again: bool = False


EventHandler = Callable[[ReplicaEvent | None], None]


class ReplicaBus(Protocol):
    """Events to and from the other replicas."""

    def publish(self, event: ReplicaEvent) -> None:
        """Sends an event to all others soon; returns at once, and never fails."""

    def subscribe(self, handler: EventHandler) -> None:
        """Has `handler` called on the running event loop with the others' events, and with None
        when events may have been missed."""


class NullBus:
    """The bus where there are no other replicas."""

    def publish(self, event: ReplicaEvent) -> None:
        pass

    def subscribe(self, handler: EventHandler) -> None:
        pass


@lru_cache(maxsize=1024)
def owner_digest(owner: str) -> str:
    """Returns a digest in place of an owner's name, which can be as good as a password."""
    return hashlib.sha256(owner.encode("utf-8", "surrogatepass")).hexdigest()


def chat_digest(chat: str) -> str:
    """Returns a digest in place of a chat's id."""
    return hashlib.sha256(chat.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def to_json(event: ReplicaEvent) -> str:
    """Returns an event as a text of less than 8000 bytes."""
    values = {field.name: getattr(event, field.name) for field in fields(event)}
    return json.dumps({name: value for name, value in values.items() if value or name == "owner"})


def from_json(text: str) -> ReplicaEvent | None:
    """Returns the event that `to_json` wrote, in this version or another; None for other texts."""
    try:
        value = json.loads(text)
        stop, message, chat = (str(value.get(name, "")) for name in ("stop", "message", "chat"))
        grew, again = (value.get(name) is True for name in ("grew", "again"))
        return ReplicaEvent(str(value["owner"]), stop, message, chat, grew, again)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
