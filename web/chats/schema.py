"""The database file: its tables, and how it gets from any earlier version to this one.

`PRAGMA user_version` counts the migrations that a file has seen. A migration that was ever released
is never changed: what is to be different is a new one at the end.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from web.chats.errors import StoreError, told

__all__ = ["MIGRATIONS", "StoreError", "open_database"]

APPLICATION = 0x4C696E6C  # "Linl", in the file's header
OPEN_SECONDS = 5.0  # how long to wait for another process, which may be migrating the file
BUSY_SECONDS = 0.5  # and later on, where whatever streams waits as well
RETRY_SECONDS = 0.05

MIGRATIONS = (
    f"""
    PRAGMA application_id = {APPLICATION};
    CREATE TABLE chats (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        owner TEXT NOT NULL,
        title TEXT NOT NULL,
        named INTEGER NOT NULL DEFAULT 0,  -- whether its owner gave it its title
        created REAL NOT NULL,
        updated REAL NOT NULL,
        deleted REAL,
        head TEXT,
        settings TEXT NOT NULL
    );
    CREATE INDEX chats_by_owner ON chats (owner, updated) WHERE deleted IS NULL;
    CREATE INDEX chats_deleted ON chats (deleted) WHERE deleted IS NOT NULL;
    CREATE TABLE messages (
        number INTEGER PRIMARY KEY,  -- the order of creation, whatever the clock said
        id TEXT NOT NULL UNIQUE,
        chat TEXT NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
        parent TEXT,
        role TEXT NOT NULL,
        state TEXT NOT NULL,
        created REAL NOT NULL,
        error TEXT NOT NULL,
        comparison TEXT,
        repeats TEXT,
        server TEXT NOT NULL DEFAULT '',  -- the process that writes it while it streams
        runs TEXT NOT NULL,
        text TEXT NOT NULL
    );
    CREATE INDEX messages_by_chat ON messages (chat);
    CREATE INDEX messages_streaming ON messages (server) WHERE state = 'streaming';
    CREATE TABLE votes (
        chat TEXT NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
        comparison TEXT NOT NULL,
        winner TEXT,
        created REAL NOT NULL,
        PRIMARY KEY (chat, comparison)
    );
    CREATE TABLE snippets (
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        text TEXT NOT NULL,
        PRIMARY KEY (owner, name)
    );
    CREATE TABLE presets (
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        sampling TEXT NOT NULL,
        PRIMARY KEY (owner, name)
    );
    """,
)


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
        if version == len(MIGRATIONS):
            connection.execute(f"PRAGMA user_version = {version}")  # finds out if it is read-only
            return False
        for statement in _statements(MIGRATIONS[version]):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version + 1}")
    return True


def _statements(script: str) -> Iterator[str]:
    """One by one, as `executescript` would commit what has begun."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """How many migrations the file has seen.

    Raises:
        StoreError: it is newer than this program, or another program's.
    """
    version = int(_only(connection, "PRAGMA user_version"))
    used = version or _only(connection, "SELECT count(*) FROM sqlite_master")
    if used and _only(connection, "PRAGMA application_id") != APPLICATION:
        raise StoreError(f"{path} is another program's database", "Move it away.")
    if version > len(MIGRATIONS):
        raise StoreError(
            f"{path} was written by a newer version of this program",
            "Start that version, or move the file away; a new one will be made.",
        )
    return version


def _only(connection: sqlite3.Connection, query: str) -> int:
    found: int = connection.execute(query).fetchone()[0]
    return found
