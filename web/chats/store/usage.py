"""How much storage an owner uses, and its limits: one visitor must not fill the disk for all."""

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

from model.errors import RequestError
from web.chats.store.schema import CHATS, MESSAGES, SNIPPETS

MAX_CHATS_PER_OWNER = 20_000
MAX_BYTES_PER_OWNER = 500_000_000  # of texts, settings and runs
MEASURE_SECONDS = 600.0  # between two measurements: replies and other replicas add to the usage
RECHECK_SECONDS = 5.0  # between two measurements for an owner without room
MAX_OWNERS = 10_000  # whose usage is cached


@dataclass(frozen=True)
class StorageUsage:
    """Chats and bytes of an owner at the time `measured` (monotonic).

    Deleted chats that can still be restored are counted separately.
    """

    chats: int
    size: int
    deleted_chats: int
    deleted_size: int
    measured: float

    @property
    def exceeds_deleted_limit(self) -> bool:
        """Whether the deleted chats alone exceed the limits of an owner."""
        return self.deleted_chats > MAX_CHATS_PER_OWNER or self.deleted_size > MAX_BYTES_PER_OWNER

    def has_room(self, chats: int, size: int) -> bool:
        """Whether so many chats and bytes can be added."""
        try:
            self.with_more(chats, size)
        except RequestError:
            return False
        return True

    def with_more(self, chats: int, size: int) -> StorageUsage:
        """Returns the usage after so many chats and bytes are added.

        Raises:
            RequestError: they exceed the limits.
        """
        more = replace(self, chats=self.chats + chats, size=self.size + size)
        if chats and more.chats > MAX_CHATS_PER_OWNER:
            raise RequestError("too_many_chats", most=MAX_CHATS_PER_OWNER)
        if more.size > MAX_BYTES_PER_OWNER:
            raise RequestError(
                "chats_too_large",
                megabytes=MAX_BYTES_PER_OWNER // 1_000_000,
            )
        return more


class UsageCache:
    """LRU cache of the owners' usage. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._usage: OrderedDict[str, StorageUsage] = OrderedDict()

    def __len__(self) -> int:
        return len(self._usage)

    def is_current(self, owner: str, chats: int, size: int) -> bool:
        """Whether the cached usage is recent enough to decide if there is room for so much more.

        Before an owner is refused, the usage must have been measured just now.
        """
        with self._lock:
            usage = self._usage.get(owner)
            if usage is None:
                return False
            self._usage.move_to_end(owner)
            seconds = MEASURE_SECONDS if usage.has_room(chats, size) else RECHECK_SECONDS
            return time.monotonic() - usage.measured < seconds

    def set(self, owner: str, usage: StorageUsage) -> None:
        """Stores a measurement, and evicts the owner that was used least recently."""
        with self._lock:
            self._usage[owner] = usage
            self._usage.move_to_end(owner)
            if len(self._usage) > MAX_OWNERS:
                self._usage.popitem(last=False)

    def add(self, owner: str, chats: int, size: int) -> None:
        """Counts what an owner is about to add.

        Raises:
            RequestError: there is no room for it.
        """
        with self._lock:
            usage = self._usage.get(owner)
            if usage is not None:
                self._usage[owner] = usage.with_more(chats, size)

    def invalidate(self, owner: str) -> None:
        """Has the owner's usage measured next time, as chats were deleted or restored."""
        with self._lock:
            self._usage.pop(owner, None)


class _Octets(FunctionElement[int]):
    """SQL: the number of bytes of a text."""

    type = Integer()
    inherit_cache = True


@compiles(_Octets, "sqlite")
def _(element: _Octets, compiler: SQLCompiler, **kwargs: Any) -> str:
    return f"length(CAST({compiler.process(element.clauses, **kwargs)} AS BLOB))"


@compiles(_Octets, "postgresql")
def _(element: _Octets, compiler: SQLCompiler, **kwargs: Any) -> str:
    return f"octet_length({compiler.process(element.clauses, **kwargs)})"


def _total_bytes(*texts: ColumnElement[str]) -> ColumnElement[int]:
    return func.coalesce(func.sum(sum(map(_Octets, texts[1:]), _Octets(texts[0]))), 0)


def _chat_columns(deleted: bool) -> list[Any]:
    """Returns columns with the number of chats, the bytes of their titles and settings, and the
    bytes of their messages."""
    of_owner = (
        CHATS.c.owner == bindparam("owner"),
        CHATS.c.deleted.is_not(None) if deleted else (CHATS.c.deleted.is_(None)),
    )
    chats = select(func.count()).select_from(CHATS).where(*of_owner)
    chat_bytes = select(_total_bytes(CHATS.c.title, CHATS.c.settings)).where(*of_owner)
    message_bytes = (
        select(_total_bytes(MESSAGES.c.text, MESSAGES.c.runs))
        .join(CHATS, CHATS.c.id == MESSAGES.c.chat)
        .where(*of_owner)
    )
    return [query.scalar_subquery() for query in (chats, chat_bytes, message_bytes)]


SELECT_USAGE = select(
    *_chat_columns(deleted=False),
    *_chat_columns(deleted=True),
    select(_total_bytes(SNIPPETS.c.text))
    .where(SNIPPETS.c.owner == bindparam("owner"))
    .scalar_subquery(),
)


def usage_from(row: Any) -> StorageUsage:
    """Returns the usage from a row of `SELECT_USAGE`, measured now."""
    chats, chat_bytes, message_bytes, deleted, *deleted_bytes, snippets = map(int, row)
    size = chat_bytes + message_bytes + snippets
    return StorageUsage(chats, size, deleted, sum(deleted_bytes), time.monotonic())
