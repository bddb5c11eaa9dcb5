"""How much of the database an owner takes up, and the limits of that: one visitor must not fill the
disk for all."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Integer, bindparam, func, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from model.types import RequestError
from web.chats.store.schema import CHATS, MESSAGES, SNIPPETS

MAX_CHATS_PER_OWNER = 20_000
MAX_BYTES_PER_OWNER = 500_000_000  # of texts, and of how they came about
MEASURE_SECONDS = 600.0  # after which it is measured again: replies and other replicas add to it
RECHECK_SECONDS = 5.0  # and where there is no room
MAX_OWNERS = 10_000  # whose usage is remembered


@dataclass(frozen=True)
class StorageUsage:
    """Chats and bytes of an owner, as of `measured`; what was deleted, but can be restored, is
    counted by itself."""

    chats: int
    size: int
    deleted_chats: int
    deleted_size: int
    measured: float

    @property
    def deletes_too_much(self) -> bool:
        """Whether what was deleted takes up as much as an owner may have."""
        return self.deleted_chats > MAX_CHATS_PER_OWNER or self.deleted_size > MAX_BYTES_PER_OWNER

    def has_room(self, chats: int, size: int) -> bool:
        """Whether this can be added."""
        try:
            self.with_more(chats, size)
        except RequestError:
            return False
        return True

    def with_more(self, chats: int, size: int) -> StorageUsage:
        """The usage once this is added.

        Raises:
            RequestError: that is too much.
        """
        more = replace(self, chats=self.chats + chats, size=self.size + size)
        if chats and more.chats > MAX_CHATS_PER_OWNER:
            raise RequestError(
                f"You have {MAX_CHATS_PER_OWNER} chats, and no more are kept", "Delete some first."
            )
        if more.size > MAX_BYTES_PER_OWNER:
            raise RequestError(
                f"Your chats take up {MAX_BYTES_PER_OWNER // 1_000_000} MB, and no more are kept",
                "Delete some first.",
            )
        return more


class UsageCache:
    """What is known of the owners who were here last. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, StorageUsage] = OrderedDict()

    def knows(self, owner: str, chats: int, size: int) -> bool:
        """Whether the owner's usage is known well enough to say if there is room for this. Before
        it is said that there is none, it has to have been measured just now."""
        with self._lock:
            known = self._known.get(owner)
            if known is None:
                return False
            self._known.move_to_end(owner)
            seconds = MEASURE_SECONDS if known.has_room(chats, size) else RECHECK_SECONDS
            return time.monotonic() - known.measured < seconds

    def keep(self, owner: str, usage: StorageUsage) -> None:
        with self._lock:
            self._known[owner] = usage
            self._known.move_to_end(owner)
            if len(self._known) > MAX_OWNERS:
                self._known.popitem(last=False)

    def add(self, owner: str, chats: int, size: int) -> None:
        """Counts what was added, whose room was checked before.

        Raises:
            RequestError: it is too much.
        """
        with self._lock:
            known = self._known.get(owner)
            if known is not None:
                self._known[owner] = known.with_more(chats, size)

    def forget(self, owner: str) -> None:
        """Has the owner's usage measured next time: something was deleted, or came back."""
        with self._lock:
            self._known.pop(owner, None)


class _Octets(FunctionElement[int]):
    """How many bytes a text has."""

    type = Integer()
    inherit_cache = True


@compiles(_Octets, "sqlite")
def _(element: _Octets, compiler: SQLCompiler, **rest: Any) -> str:
    return f"length(CAST({compiler.process(element.clauses, **rest)} AS BLOB))"


@compiles(_Octets, "postgresql")
def _(element: _Octets, compiler: SQLCompiler, **rest: Any) -> str:
    return f"octet_length({compiler.process(element.clauses, **rest)})"


def _total(*texts: ColumnElement[str]) -> ColumnElement[int]:
    return func.coalesce(func.sum(sum(map(_Octets, texts[1:]), _Octets(texts[0]))), 0)


def _of_chats(deleted: bool) -> list[Any]:
    """The number of chats, the bytes of what they are called and set to, and of their messages."""
    own = (
        CHATS.c.owner == bindparam("owner"),
        CHATS.c.deleted.is_not(None) if deleted else (CHATS.c.deleted.is_(None)),
    )
    chats = select(func.count()).select_from(CHATS).where(*own)
    around = select(_total(CHATS.c.title, CHATS.c.settings)).where(*own)
    said = (
        select(_total(MESSAGES.c.text, MESSAGES.c.runs))
        .join(CHATS, CHATS.c.id == MESSAGES.c.chat)
        .where(*own)
    )
    return [one.scalar_subquery() for one in (chats, around, said)]


USAGE = select(
    *_of_chats(deleted=False),
    *_of_chats(deleted=True),
    select(_total(SNIPPETS.c.text)).where(SNIPPETS.c.owner == bindparam("owner")).scalar_subquery(),
)


def usage_from(row: Any) -> StorageUsage:
    """What `USAGE` found."""
    chats, around, said, deleted, deleted_around, deleted_said, snippets = map(int, row)
    return StorageUsage(
        chats, around + said + snippets, deleted, deleted_around + deleted_said, time.monotonic()
    )
