"""The default backend: chats in a SQLite file.

`PRAGMA user_version` stores how many migrations have run, `PRAGMA application_id` that the file is
this program's.
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
from web.chats.store.search import SQL_FUNCTION, contains_folded

APPLICATION_ID = 0x4C696E6C  # "Linl", in the file's header
OPEN_SECONDS = 5.0  # to wait for another process at the start: it may be migrating the file
BUSY_SECONDS = 0.5  # and later, while other threads wait for this one
TURN_SECONDS = 5.0  # that a thread waits for the other threads of this process
CHECK_SECONDS = 1.0  # for a check of the store, which counts as not writable after that
SEARCH_SECONDS = 3.0  # after which a search is ended
READERS = 4  # connections that read, each with at most 2 MB of the file in memory
MAX_JOURNAL = 64_000_000  # bytes of the journal that stay on the disk
RETRY_SECONDS = 0.05


class SqliteFile:
    """SQLite file with one connection that writes, for one thread at a time, and a few that read.

    The journal (WAL) lets them work side by side: a read sees what was committed when it began. It
    neither waits for the writer nor makes it wait.

    Raises:
        StoreError: as `open_database`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._write_lock, self._read_lock = FairLock(), FairLock(READERS)
        self._closed = False
        writer = open_database(path)
        self._file_identity = _identity(path)
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
            with self._read_lock.hold(TURN_SECONDS), self._readers.connect() as connection:
                yield connection
        finally:
            if self._closed:  # `close` did not see this connection
                self._readers.pool.dispose()

    @contextmanager
    def searching(self) -> Iterator[Connection]:
        """A timer ends the statement. SQLite's progress handler would do it, too, but takes the
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
                timer.join()  # it must not interrupt the connection's next statement

    @contextmanager
    def transaction(self, seconds: float | None = None) -> Iterator[Connection]:
        """Takes the write lock at the beginning: rows that a transaction reads before it writes
        must not change in between."""
        with self.single_write(seconds) as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            connection.commit()

    @contextmanager
    def single_write(self, seconds: float | None = None) -> Iterator[Connection]:
        with self._write_lock.hold(TURN_SECONDS if seconds is None else seconds):
            self._check_open()
            with self._writer.connect() as connection:
                yield connection

    def check(self) -> None:
        """Writes the version number that is already there: a transaction without a change would not
        notice a full disk."""
        if _identity(self._path) != self._file_identity:
            raise MovedError
        with self.transaction(CHECK_SECONDS) as connection:
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            connection.exec_driver_sql(f"PRAGMA user_version = {version}")

    def close(self) -> None:
        """Closes the writer last: the last connection of all moves the journal into the file. If a
        thread still uses the writer, the next start does that."""
        self._closed = True
        with contextlib.suppress(StoreBusyError), self._write_lock.hold(TURN_SECONDS):
            self._readers.pool.dispose()
            self._writer.dispose()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError

    def _open_reader(self) -> sqlite3.Connection:
        """Opens a connection for the pool.

        A file that has replaced the open one has another journal: reading it beside a writer of the
        old file would damage both.
        """
        if _identity(self._path) != self._file_identity:
            raise MovedError
        connection = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS,
            isolation_level=None, check_same_thread=False,
        )  # fmt: skip
        connection.execute("PRAGMA query_only = ON")
        connection.create_function(SQL_FUNCTION, 2, contains_folded, deterministic=True)
        return connection


def _identity(path: Path) -> tuple[int, int] | None:
    """Returns device and inode, which differ from those of another file at the same path; None
    where there is no file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def open_database(path: Path) -> sqlite3.Connection:
    """Opens the database at `path`, which is created or migrated as needed.

    The connection begins no transaction by itself: a caller that writes executes BEGIN.

    Raises:
        StoreError: it cannot be opened or written, is another program's, or is newer.
    """
    _create_file(path)
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


def _create_file(path: Path) -> None:
    """Creates the file with access for its owner alone: SQLite would let all users read it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch(mode=0o600)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(
            "chats_folder_not_writable",
            folder=path.parent,
            reason=reason,
        ) from error


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    _version(connection, path)  # first, so that another program's file is not changed in any way
    use_wal(connection)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")  # removes deleted texts from the file, too
    connection.execute(f"PRAGMA journal_size_limit = {MAX_JOURNAL}")
    while _migrate(connection, path):
        pass
    connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")


def use_wal(connection: sqlite3.Connection) -> None:
    """Switches the journal to WAL. SQLite itself does not wait here if another process does the
    same at that moment.

    Raises:
        sqlite3.OperationalError
    """
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
    """Runs the next migration in a transaction; returns False when there is none left."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        version = _version(connection, path)  # another process may have run it meanwhile
        if version == len(migrations.MIGRATIONS):
            connection.execute(f"PRAGMA user_version = {version}")  # fails if it is read-only
            return False
        if version == 0:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        for statement in statements(migrations.MIGRATIONS[version], SQLITE):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version + 1}")
    return True


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """Returns how many migrations have run.

    Raises:
        StoreError: the file is newer than this program, or another program's.
    """
    version = _select_number(connection, "PRAGMA user_version")
    in_use = version or _select_number(connection, "SELECT count(*) FROM sqlite_master")
    if in_use and _select_number(connection, "PRAGMA application_id") != APPLICATION_ID:
        raise StoreError("chats_file_of_another_program", path=path)
    if version > len(migrations.MIGRATIONS):
        raise StoreError(
            "chats_file_newer",
            path=path,
        )
    return version


def _select_number(connection: sqlite3.Connection, query: str) -> int:
    number: int = connection.execute(query).fetchone()[0]
    return number
