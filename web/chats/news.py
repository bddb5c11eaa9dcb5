"""What the replicas of the program tell each other: whose chats have changed, and what is to stop.

Others of the database's users may listen, so nobody's name is told, nor anything that was said.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Protocol


@dataclass(frozen=True)
class News:
    """Of an owner, by `whose`: the chats have changed, or what is said in one is to stop."""

    owner: str
    stop: str = ""  # a chat


Hear = Callable[[News | None], None]


class Others(Protocol):
    """The other replicas."""

    def tell(self, news: News) -> None:
        """Let all of them know, soon; returns at once, and never fails."""

    def follow(self, hear: Hear) -> None:
        """Have `hear` called on the event loop that runs now with what the others tell, and with
        None when something may have been missed."""


class Nobody:
    """There are none."""

    def tell(self, news: News) -> None:
        pass

    def follow(self, hear: Hear) -> None:
        pass


@lru_cache(maxsize=1024)
def whose(owner: str) -> str:
    """What stands for an owner; an owner's name can be as good as a password."""
    return hashlib.sha256(owner.encode("utf-8", "surrogatepass")).hexdigest()


def written(news: News) -> str:
    """As a text of less than 8000 bytes."""
    return json.dumps(asdict(news))


def read(text: str) -> News | None:
    """What `written` wrote, in this version or another; None for what is of no use here."""
    try:
        value = json.loads(text)
        return News(str(value["owner"]), str(value.get("stop", "")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
