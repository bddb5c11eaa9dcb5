"""The embedded default: chats in a SQLite file.

`PRAGMA user_version` counts the migrations that a file has seen, `PRAGMA application_id` says that
it is ours.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, StaticPool, create_engine

from web.chats import migrations
from web.chats.errors import ClosedError, StoreError, told
from web.chats.migrations import SQLITE, statements
from web.chats.searching import folded_holds

APPLICATION = 0x4C696E6C  # "Linl", in the file's header
OPEN_SECONDS = 5.0  # how long to wait for another process, which may be migrating the file
BUSY_SECONDS = 0.5  # and later on, where whatever streams waits as well
RETRY_SECONDS = 0.05


class SqliteFile:
    """One connection for all threads of this process, one at a time.

    Raises:
        StoreError: as `open_database`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._closed = False
        connection = open_database(path)
        connection.create_function("holds", 2, folded_holds, deterministic=True)
        self._engine = create_engine(
            "sqlite://", creator=lambda: connection, poolclass=StaticPool, hide_parameters=True
        )

    def __str__(self) -> str:
        return str(self._path)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """In no transaction: nothing is held up by who only looks."""
        with self._lock, self._connection() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Alone from the beginning: who looks first, and then writes, must not find it changed."""
        with self._lock, self._connection() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            connection.commit()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._engine.dispose()

    def _connection(self) -> Connection:
        if self._closed:
            raise ClosedError
        return self._engine.connect()


def open_database(path: Path) -> sqlite3.Connection:
    """The database at `path`, made or brought up to date as needed.

    Nothing begins a transaction by itself: who writes says BEGIN.

    Raises:
        StoreError: it cannot be opened or written, is none of ours, or is newer than the program.
    """
    _make_file(path)
    with told(path, "opened"):
        connection = sqlite3.connect(
            path, timeout=OPEN_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def _make_file(path: Path) -> None:
    """With rights for its owner alone: SQLite would let everybody read what is said."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch(mode=0o600)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(
            f"The chats cannot be kept in {path.parent}: {reason}",
            "Make that folder writable for this user, or choose another one.",
        ) from error


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    _version(connection, path)  # before a file that is not ours is changed in any way
    _use_wal(connection)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")  # what is deleted is gone from the file, too
    while _migrate(connection, path):
        pass
    connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")


def _use_wal(connection: sqlite3.Connection) -> None:
    """SQLite does not wait by itself here when another process does the same."""
    deadline = time.monotonic() + OPEN_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)


def _migrate(connection: sqlite3.Connection, path: Path) -> bool:
    """One step towards the current version, all or nothing; False when there is none left."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        version = _version(connection, path)  # another process may have been quicker
        if version == len(migrations.MIGRATIONS):
            connection.execute(f"PRAGMA user_version = {version}")  # finds out if it is read-only
            return False
        if version == 0:
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
        for statement in statements(migrations.MIGRATIONS[version], SQLITE):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version + 1}")
    return True


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """How many migrations the file has seen.

    Raises:
        StoreError: it is newer than this program, or another program's.
    """
    version = int(_only(connection, "PRAGMA user_version"))
    used = version or _only(connection, "SELECT count(*) FROM sqlite_master")
    if used and _only(connection, "PRAGMA application_id") != APPLICATION:
        raise StoreError(f"{path} is another program's database", "Move it away.")
    if version > len(migrations.MIGRATIONS):
        raise StoreError(
            f"{path} was written by a newer version of this program",
            "Start that version, or move the file away; a new one will be made.",
        )
    return version


def _only(connection: sqlite3.Connection, query: str) -> int:
    found: int = connection.execute(query).fetchone()[0]
    return found
