"""Chats in PostgreSQL, where several replicas of the program share them.

Needs a database in UTF-8. The table `linly_schema` counts the migrations that it has seen. What an
address says itself (libpq's words, behind a "?") comes before what is set here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, QueuePool, create_engine, text

from web.chats import migrations
from web.chats.errors import ClosedError, StoreError, told
from web.chats.migrations import POSTGRES, statements
from web.chats.sqlite import APPLICATION, BUSY_SECONDS, OPEN_SECONDS

POOL_SIZE = 4  # connections: of the event loop and of the threads that look or import
STATEMENT_SECONDS = 5.0  # a search through all of somebody's chats takes the longest
PAUSES = 4  # for how many times as long as it took in vain nobody tries again
# A host that is gone says nothing, so somebody has to stop waiting.
WAITING = {
    "connect_timeout": 2,  # seconds
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,  # milliseconds
}
TABLES = "chats", "messages", "votes", "snippets", "presets"


class Postgres:
    """The database at an address, made or brought up to date as needed.

    Connections are made again by themselves. While there is none to be had, every call fails; after
    a try that took long, without a try for a while, because whoever calls may be the event loop.

    Raises:
        StoreError: it cannot be reached or written, is not fit for chats, or is newer than the
            program.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._name = conninfo_to_dict(url).get("dbname")
        self._shut_until = 0.0
        self._closed = False
        with told_at_start(self):
            self.connect().close()
        self._engine = create_engine(
            "postgresql+psycopg://", creator=self._patiently, hide_parameters=True,
            poolclass=QueuePool, pool_size=POOL_SIZE, max_overflow=POOL_SIZE,
            pool_timeout=BUSY_SECONDS, pool_pre_ping=True,
        )  # fmt: skip
        self._looking = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        try:
            with told(self, "opened"):
                self._check()
                while self._migrate():
                    pass
        except BaseException:
            self.close()
            raise

    def __str__(self) -> str:
        """Without the password, and without what a visitor need not know."""
        return f"the database {self._name}" if self._name else "the database"

    def connect(self) -> psycopg.Connection[Any]:
        """A connection outside of the pool, each statement of which is a transaction.

        Raises:
            psycopg.Error
        """
        given = conninfo_to_dict(self._url)
        settings: dict[str, Any] = {
            "application_name": "linly-chat", **WAITING, **given, "client_encoding": "utf8"
        }  # fmt: skip
        return psycopg.connect(**settings, autocommit=True)

    def reading(self) -> AbstractContextManager[Connection]:
        """In no transaction: nothing is held up by who only looks."""
        self._check_open()
        return self._looking.connect()

    def writing(self) -> AbstractContextManager[Connection]:
        """What two must not do at once is held by a lock on its chat's row."""
        self._check_open()
        return self._engine.begin()

    def close(self) -> None:
        self._closed = True
        self._engine.dispose()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError

    def _patiently(self) -> psycopg.Connection[Any]:
        """For the pool: as `connect`, unless that was in vain just now, and took long."""
        began = time.monotonic()
        if began < self._shut_until:
            raise psycopg.OperationalError("it did not answer just now")
        try:
            return _bound(self.connect())
        except psycopg.Error:
            ended = time.monotonic()
            self._shut_until = ended + PAUSES * (ended - began)
            raise

    def _check(self) -> None:
        """That the database can keep every text, and find it."""
        with self._looking.connect() as connection:
            encoding = connection.execute(text("SHOW server_encoding")).scalar()
            known = text("SELECT 1 FROM pg_collation WHERE collname = 'und-x-icu'")
            unicode = connection.execute(known).first()
        if encoding != "UTF8":
            raise StoreError(f"{self} is not in UTF-8", "Make one with ENCODING 'UTF8'.")
        if unicode is None:
            raise StoreError(f"{self} knows no Unicode (ICU)", "Use a PostgreSQL that does.")

    def _migrate(self) -> bool:
        """One step towards the current version, all or nothing; False when there is none left."""
        with self._engine.begin() as connection:
            for setting in (f"lock_timeout = '{OPEN_SECONDS}s'", "statement_timeout = 0"):
                connection.execute(text(f"SET LOCAL {setting}"))
            # Replicas may start in the same moment.
            connection.execute(text(f"SELECT pg_advisory_xact_lock({APPLICATION})"))
            version = self._version(connection)
            if version == len(migrations.MIGRATIONS):
                return False
            for statement in statements(migrations.MIGRATIONS[version], POSTGRES):
                _run(connection, statement)
            _run(connection, f"UPDATE linly_schema SET version = {version + 1}")  # noqa: S608
        return True

    def _version(self, connection: Connection) -> int:
        """How many migrations the database has seen.

        Raises:
            StoreError: it is newer than this program, or another program's.
        """
        if not _there(connection, "linly_schema"):
            if any(_there(connection, table) for table in TABLES):
                raise StoreError(
                    f"{self} has another program's tables", "Make one for the chats alone."
                )
            _run(connection, "CREATE TABLE linly_schema (version INTEGER NOT NULL)")
            _run(connection, "INSERT INTO linly_schema VALUES (0)")
        version = int(connection.execute(text("SELECT version FROM linly_schema")).scalar_one())
        if version > len(migrations.MIGRATIONS):
            raise StoreError(
                f"{self} was written by a newer version of this program",
                "Start that version, or pass another --database_url.",
            )
        return version


@contextmanager
def told_at_start(place: object) -> Iterator[None]:
    """Say why there is no connection, to whoever starts the program.

    Raises:
        StoreError: in place of `psycopg.Error`.
    """
    try:
        yield
    except psycopg.Error as error:
        raise StoreError(
            f"The chats cannot be opened in {place}: {reason(error)}",
            "Check --database_url, and that PostgreSQL runs there.",
        ) from error


def reason(error: psycopg.Error) -> str:
    """What libpq says, in one line; it never repeats the password."""
    first = str(error).strip().partition("\n")[0]
    for beginning in ("connection failed: ", "connection is bad: "):
        first = first.removeprefix(beginning)
    return first


def _bound(connection: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """No statement waits for long: the event loop may be waiting for it."""
    try:
        connection.execute(
            f"SET lock_timeout = '{BUSY_SECONDS}s'; SET statement_timeout = '{STATEMENT_SECONDS}s'"
        )
        connection.autocommit = False
    except BaseException:
        connection.close()
        raise
    return connection


def _there(connection: Connection, table: str) -> bool:
    """Whether the tables' schema has one of this name."""
    query = text("SELECT to_regclass(quote_ident(current_schema()) || '.' || :name)")
    return connection.execute(query, {"name": table}).scalar() is not None


def _run(connection: Connection, statement: str) -> None:
    """A statement as it is: what looks like a parameter in it is none."""
    connection.execution_options(no_parameters=True).exec_driver_sql(statement)
