"""Base class of the tables' classes: transactions, ownership checks, and limits of storage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, bindparam, select

from web.chats.store.errors import UnknownChatError, translate_db_errors, translate_search_errors
from web.chats.store.fair_lock import OwnerSlots
from web.chats.store.schema import CHATS, MESSAGES
from web.chats.store.sqlite import SqliteFile
from web.chats.store.usage import SELECT_USAGE, StorageUsage, UsageCache, usage_from

OWNED_CHAT = select(CHATS.c.id).where(
    CHATS.c.id == bindparam("chat"),
    CHATS.c.owner == bindparam("owner"),
    CHATS.c.deleted.is_(None),
)
# SQLite has no row locks: its only writer holds the lock of the whole file.
OWNED_CHAT_LOCKED = OWNED_CHAT.with_for_update()
MESSAGE_OF_CHAT = select(MESSAGES.c.id).where(
    MESSAGES.c.id == bindparam("message"), MESSAGES.c.chat == bindparam("chat")
)
MAX_SEARCHES = 2  # at a time
SEARCH_WAIT_SECONDS = 3.0  # for a slot


class StoreBackend(Protocol):
    """A database with chats. `str` gives its name for error messages. Thread-safe."""

    def reading(self) -> AbstractContextManager[Connection]:
        """A connection for statements that read, each a transaction of its own. Waits for no
        writer."""

    def searching(self) -> AbstractContextManager[Connection]:
        """As `reading`, for a statement that the database ends after a few seconds."""

    def single_write(self) -> AbstractContextManager[Connection]:
        """A connection for one statement that writes, a transaction of its own."""

    def transaction(self) -> AbstractContextManager[Connection]:
        """A transaction that writes: it is committed as a whole, or not at all."""

    def check(self) -> None:
        """Checks, within about a second, that the database can be written."""

    def close(self) -> None: ...


class Database:
    """Chats in `backend`; a path is a SQLite file.

    Args:
        alive: whether the server with this id is alive.

    Raises:
        StoreError: the database cannot be opened or written, is another program's, or is newer.
    """

    def __init__(
        self, backend: Path | StoreBackend, alive: Callable[[str], bool] = lambda _: False
    ) -> None:
        self.backend: StoreBackend = SqliteFile(backend) if isinstance(backend, Path) else backend
        self._alive = alive
        self._usage = UsageCache()
        self._search_slots = OwnerSlots(MAX_SEARCHES)

    def close(self) -> None:
        """Closes the connections. Every later call fails."""
        self.backend.close()

    def check(self) -> None:
        """Checks that chats can be saved now.

        Takes a millisecond, or a second or two where the database is busy or away. Meant to be
        called about once a second, from a worker thread.

        Raises:
            StoreError: they cannot be saved.
        """
        with translate_db_errors(self.backend, "saved"):
            self.backend.check()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """As `StoreBackend.reading`, with errors as `StoreError`."""
        with translate_db_errors(self.backend, "read"), self.backend.reading() as connection:
            yield connection

    @contextmanager
    def searching(self, owner: str) -> Iterator[Connection]:
        """As `reading`, for a search. Few run at a time, so that others get a connection, too."""
        with (
            translate_search_errors(self.backend),
            self._search_slots.hold(owner, SEARCH_WAIT_SECONDS),
            self.backend.searching() as connection,
        ):
            yield connection

    @contextmanager
    def single_write(self) -> Iterator[Connection]:
        """As `transaction`, for a single statement: with fewer round trips to the database."""
        with translate_db_errors(self.backend, "saved"), self.backend.single_write() as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """As `StoreBackend.transaction`, with errors as `StoreError`."""
        with translate_db_errors(self.backend, "saved"), self.backend.transaction() as connection:
            yield connection

    def _reserve_room(self, owner: str, chats: int = 0, size: int = 0) -> None:
        """Checks that an owner has room for so many more chats and bytes, and counts them.

        Raises:
            RequestError: there is no room.
            StoreError
        """
        if not self._usage.is_current(owner, chats, size):
            self._usage.set(owner, self._measure_usage(owner))
        self._usage.add(owner, chats, size)

    def _measure_usage(self, owner: str) -> StorageUsage:
        with translate_db_errors(self.backend, "saved"), self.backend.reading() as connection:
            return usage_from(connection.execute(SELECT_USAGE, {"owner": owner}).one())


def check_chat(connection: Connection, owner: str, chat: str) -> None:
    """Checks that an owner has this chat, and has not deleted it.

    Raises:
        UnknownChatError
    """
    if connection.execute(OWNED_CHAT, {"chat": chat, "owner": owner}).first() is None:
        raise UnknownChatError


def lock_chat(connection: Connection, owner: str, chat: str) -> None:
    """As `check_chat`, and keeps others from writing in the chat until the transaction ends.

    Raises:
        UnknownChatError
    """
    if connection.execute(OWNED_CHAT_LOCKED, {"chat": chat, "owner": owner}).first() is None:
        raise UnknownChatError


def check_message(connection: Connection, chat: str, message: str | None) -> None:
    """Checks that a message is in a chat; None passes.

    Raises:
        UnknownChatError
    """
    values = {"message": message, "chat": chat}
    if message is not None and connection.execute(MESSAGE_OF_CHAT, values).first() is None:
        raise UnknownChatError
