"""The embedded default: chats in a SQLite file.

`PRAGMA user_version` counts the migrations that a file has seen, `PRAGMA application_id` says that
it is ours.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, QueuePool, StaticPool, create_engine

from web.chats.store import migrations
from web.chats.store.errors import (
    ClosedError,
    MovedError,
    StoreBusyError,
    StoreError,
    translate_db_errors,
)
from web.chats.store.fair_lock import FairLock
from web.chats.store.migrations import SQLITE, statements
from web.chats.store.search import folded_holds

APPLICATION = 0x4C696E6C  # "Linl", in the file's header
OPEN_SECONDS = 5.0  # how long to wait for another process, which may be migrating the file
BUSY_SECONDS = 0.5  # and later on, while other threads wait for this one
TURN_SECONDS = 5.0  # how long a thread waits for the others of this process
CHECK_SECONDS = 1.0  # after which a store that cannot be checked is one that cannot be written
SEARCH_SECONDS = 3.0  # after which a search is ended
READERS = 4  # connections that read, each with at most 2 MB of the file in memory
MAX_JOURNAL = 64_000_000  # bytes of it that stay on the disk once they are in the file
RETRY_SECONDS = 0.05


class SqliteFile:
    """One connection that writes, for one thread at a time, and a few that read beside it.

    The journal (WAL) lets them: a read sees what was committed when it began, and neither waits for
    the writer nor holds it up.

    Raises:
        StoreError: as `open_database`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing, self._reading = FairLock(), FairLock(READERS)
        self._closed = False
        writer = open_database(path)
        self._file = _identity(path)
        self._writer = create_engine(
            "sqlite://", creator=lambda: writer, poolclass=StaticPool, hide_parameters=True
        )
        self._readers = create_engine(
            "sqlite://", creator=self._open_reader, hide_parameters=True, poolclass=QueuePool,
            pool_size=READERS, max_overflow=0, pool_timeout=TURN_SECONDS, pool_use_lifo=True,
        )  # fmt: skip

    def __str__(self) -> str:
        return str(self._path)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        self._check_open()
        try:
            with self._reading.held(TURN_SECONDS), self._readers.connect() as connection:
                yield connection
        finally:
            if self._closed:  # `close` did not see this connection
                self._readers.pool.dispose()

    @contextmanager
    def searching(self) -> Iterator[Connection]:
        """A timer ends the statement: what SQLite calls itself, to see the time, would take the
        interpreter's lock again and again."""
        with self.reading() as connection:
            driver: Any = connection.connection.dbapi_connection
            timer = threading.Timer(SEARCH_SECONDS, driver.interrupt)
            timer.daemon = True
            timer.start()
            try:
                yield connection
            finally:
                timer.cancel()
                timer.join()  # it must not interrupt what the connection does next

    @contextmanager
    def writing(self, seconds: float | None = None) -> Iterator[Connection]:
        """Has the write lock from the beginning: what a transaction reads before it writes must
        not change in between."""
        with self.once(seconds) as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            connection.commit()

    @contextmanager
    def once(self, seconds: float | None = None) -> Iterator[Connection]:
        with self._writing.held(TURN_SECONDS if seconds is None else seconds):
            self._check_open()
            with self._writer.connect() as connection:
                yield connection

    def check(self) -> None:
        """Writes the number that is there already: a transaction that changes nothing would not
        notice a full disk."""
        if _identity(self._path) != self._file:
            raise MovedError
        with self.writing(CHECK_SECONDS) as connection:
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            connection.exec_driver_sql(f"PRAGMA user_version = {version}")

    def close(self) -> None:
        """The writer goes last: the last connection of all empties the journal into the file. A
        thread that is not done with the writer by then leaves that to the next start."""
        self._closed = True
        with contextlib.suppress(StoreBusyError), self._writing.held(TURN_SECONDS):
            self._readers.pool.dispose()
            self._writer.dispose()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError

    def _open_reader(self) -> sqlite3.Connection:
        """For the pool. A file that has taken the place of the open one has another journal:
        reading it beside a writer of the old one would damage both."""
        if _identity(self._path) != self._file:
            raise MovedError
        connection = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS,
            isolation_level=None, check_same_thread=False,
        )  # fmt: skip
        connection.execute("PRAGMA query_only = ON")
        connection.create_function("holds", 2, folded_holds, deterministic=True)
        return connection


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another one at the same path; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def open_database(path: Path) -> sqlite3.Connection:
    """The database at `path`, made or brought up to date as needed.

    Nothing begins a transaction by itself: who writes says BEGIN.

    Raises:
        StoreError: it cannot be opened or written, is none of ours, or is newer than the program.
    """
    _make_file(path)
    with translate_db_errors(path, "opened"):
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
    connection.execute(f"PRAGMA journal_size_limit = {MAX_JOURNAL}")
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
