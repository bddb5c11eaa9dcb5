"""What the replicas of the program tell each other: whose chats have changed, and what is to stop.

Others of the database's users may listen, so nobody's name is told, nor anything that was said.
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
    """Of an owner, by `owner_digest`: the chats have changed, or what is said in one is to stop.

    `chat` is a chat by `chat_digest`, if the event is about that one alone; there, a reply only
    `grew`. `again` asks every replica to send its pending stops once more.
    """

    owner: str
    stop: str = ""  # a chat
    message: str = ""  # the reply in it; "" for all of them
    chat: str = ""
    grew: bool = False
    again: bool = False


Hear = Callable[[ReplicaEvent | None], None]


class ReplicaBus(Protocol):
    """The other replicas."""

    def tell(self, news: ReplicaEvent) -> None:
        """Let all of them know, soon; returns at once, and never fails."""

    def follow(self, hear: Hear) -> None:
        """Have `hear` called on the event loop that runs now with what the others tell, and with
        None when something may have been missed."""


class NullBus:
    """There are none."""

    def tell(self, news: ReplicaEvent) -> None:
        pass

    def follow(self, hear: Hear) -> None:
        pass


@lru_cache(maxsize=1024)
def owner_digest(owner: str) -> str:
    """What stands for an owner; an owner's name can be as good as a password."""
    return hashlib.sha256(owner.encode("utf-8", "surrogatepass")).hexdigest()


def chat_digest(chat: str) -> str:
    """What stands for a chat, which need not be told either."""
    return hashlib.sha256(chat.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def to_json(news: ReplicaEvent) -> str:
    """As a text of less than 8000 bytes."""
    values = {one.name: getattr(news, one.name) for one in fields(news)}
    return json.dumps({name: value for name, value in values.items() if value or name == "owner"})


def from_json(text: str) -> ReplicaEvent | None:
    """What `to_json` wrote, in this version or another; None for what is of no use here."""
    try:
        value = json.loads(text)
        stop, message, chat = (str(value.get(name, "")) for name in ("stop", "message", "chat"))
        grew, again = (value.get(name) is True for name in ("grew", "again"))
        return ReplicaEvent(str(value["owner"]), stop, message, chat, grew, again)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
