"""One connection to the chats' database for all threads of this process."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from web.chats.errors import UnknownChatError, told
from web.chats.schema import open_database


class Database:
    """What the tables' classes share: transactions, one at a time, and who owns what.

    Raises:
        StoreError: as `open_database`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection = open_database(path)
        self._connection.create_function("holds", 2, _holds, deterministic=True)

    def close(self) -> None:
        """Nothing can be read or saved from here on."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, told(self._path, "read"):
            yield self._connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """All of it happens, or nothing."""
        with self._lock, told(self._path, "saved"), self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection


def check_chat(connection: sqlite3.Connection, owner: str, chat: str) -> None:
    """That the owner has this chat, and has not deleted it.

    Raises:
        UnknownChatError
    """
    found = connection.execute(
        "SELECT 1 FROM chats WHERE id = ? AND owner = ? AND deleted IS NULL", (chat, owner)
    )
    if found.fetchone() is None:
        raise UnknownChatError


def check_message(connection: sqlite3.Connection, chat: str, message: str | None) -> None:
    """That a message is in a chat; None always is.

    Raises:
        UnknownChatError
    """
    query = "SELECT 1 FROM messages WHERE id = ? AND chat = ?"
    if message is not None and not connection.execute(query, (message, chat)).fetchone():
        raise UnknownChatError


def _holds(text: str, folded: str) -> bool:
    """For SQL: whether `folded` is in the text, in whatever case."""
    return folded in text.casefold()
