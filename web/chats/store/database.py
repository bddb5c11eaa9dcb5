"""What the tables' classes share: transactions, and who owns what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, bindparam, select

from web.chats.store.errors import UnknownChatError, search_told, translate_db_errors
from web.chats.store.schema import CHATS, MESSAGES
from web.chats.store.sqlite import SqliteFile
from web.chats.store.usage import USAGE, StorageUsage, UsageCache, usage_from
from web.chats.turns import Turns

OWN_CHAT = select(CHATS.c.id).where(
    CHATS.c.id == bindparam("chat"),
    CHATS.c.owner == bindparam("owner"),
    CHATS.c.deleted.is_(None),
)
# SQLite knows no locks on rows: there, whoever writes is alone anyway.
OWN_CHAT_LOCKED = OWN_CHAT.with_for_update()
IN_CHAT = select(MESSAGES.c.id).where(
    MESSAGES.c.id == bindparam("message"), MESSAGES.c.chat == bindparam("chat")
)


SEARCHES = 2  # at a time
SEARCH_SECONDS = 3.0  # that one waits for its turn


class StoreBackend(Protocol):
    """Where chats are kept; as a text, what it is called. May be used from any thread."""

    def reading(self) -> AbstractContextManager[Connection]:
        """For statements that read, each a transaction of its own. Waits for no writer."""

    def searching(self) -> AbstractContextManager[Connection]:
        """As `reading`, for a statement that the database ends after a few seconds."""

    def once(self) -> AbstractContextManager[Connection]:
        """For one statement that writes, which is a transaction of its own."""

    def writing(self) -> AbstractContextManager[Connection]:
        """A transaction: all of it happens, or nothing."""

    def check(self) -> None:
        """Finds out, within a second or so, whether it can be written."""

    def close(self) -> None: ...


class Database:
    """Chats at `home`; a path is a SQLite file. `alive` says whether the server of this id lives.

    Raises:
        StoreError: it cannot be opened or written, is none of ours, or is newer than the program.
    """

    def __init__(
        self, home: Path | StoreBackend, alive: Callable[[str], bool] = lambda _: False
    ) -> None:
        self.home: StoreBackend = SqliteFile(home) if isinstance(home, Path) else home
        self._alive = alive
        self._usage = UsageCache()
        self._searches = Turns(SEARCHES)

    def close(self) -> None:
        """Nothing can be read or saved from here on."""
        self.home.close()

    def check(self) -> None:
        """That chats can be saved now. Takes a millisecond, and a second or two where a database is
        busy or away; meant to be called about once a second, from a worker thread.

        Raises:
            StoreError: they cannot.
        """
        with translate_db_errors(self.home, "saved"):
            self.home.check()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with translate_db_errors(self.home, "read"), self.home.reading() as connection:
            yield connection

    @contextmanager
    def _searching(self, owner: str) -> Iterator[Connection]:
        """As `_reading`, for what may take long: the connections are not all to do that."""
        with (
            search_told(self.home),
            self._searches.of(owner, SEARCH_SECONDS),
            self.home.searching() as connection,
        ):
            yield connection

    @contextmanager
    def _once(self) -> Iterator[Connection]:
        """For a single statement that writes, in fewer steps than `_writing`."""
        with translate_db_errors(self.home, "saved"), self.home.once() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """All of it happens, or nothing."""
        with translate_db_errors(self.home, "saved"), self.home.writing() as connection:
            yield connection

    def _check_room(self, owner: str, chats: int = 0, size: int = 0) -> None:
        """Before something is kept: that its owner has room for so many more chats and bytes, which
        are counted from here on.

        Raises:
            RequestError: there is none.
            StoreError
        """
        if not self._usage.knows(owner, chats, size):
            self._usage.keep(owner, self._measured(owner))
        self._usage.add(owner, chats, size)

    def _measured(self, owner: str) -> StorageUsage:
        with translate_db_errors(self.home, "saved"), self.home.reading() as connection:
            return usage_from(connection.execute(USAGE, {"owner": owner}).one())


def check_chat(connection: Connection, owner: str, chat: str) -> None:
    """That the owner has this chat, and has not deleted it.

    Raises:
        UnknownChatError
    """
    if connection.execute(OWN_CHAT, {"chat": chat, "owner": owner}).first() is None:
        raise UnknownChatError


def hold_chat(connection: Connection, owner: str, chat: str) -> None:
    """As `check_chat`, and nobody else writes in the chat until this transaction ends.

    Raises:
        UnknownChatError
    """
    if connection.execute(OWN_CHAT_LOCKED, {"chat": chat, "owner": owner}).first() is None:
        raise UnknownChatError


def check_message(connection: Connection, chat: str, message: str | None) -> None:
    """That a message is in a chat; None always is.

    Raises:
        UnknownChatError
    """
    values = {"message": message, "chat": chat}
    if message is not None and connection.execute(IN_CHAT, values).first() is None:
        raise UnknownChatError
