"""Chats in PostgreSQL, where several replicas of the program share them.

Needs a database in UTF-8. The table `linly_schema` counts the migrations that it has seen. What an
address says itself (libpq's words, behind a "?") comes before what is set here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, Engine, NullPool, QueuePool, create_engine, event, text
from sqlalchemy.exc import InvalidatePoolError

from web.chats.store import migrations
from web.chats.store.errors import ClosedError, ReadOnlyError, StoreError, translate_db_errors
from web.chats.store.migrations import POSTGRES, statements
from web.chats.store.postgres_timeouts import BoundedConnection, has_something
from web.chats.store.sqlite import APPLICATION, BUSY_SECONDS, OPEN_SECONDS

START_SECONDS = 15  # for a connection, when nobody waits yet but who starts the program
POOL_SIZE = 4  # connections: of the event loop and of the threads that look or import
STATEMENT_SECONDS = 5.0  # a search through all of somebody's chats takes the longest
IDLE_SECONDS = 30.0  # between two statements of a transaction
ANSWER_SECONDS = 1.0  # this much longer, and it is not the statement that takes so long
CHECK_SECONDS = 1.0  # that a check waits for the server
PING_SECONDS = 5.0  # a connection that was used since then is taken as it is
PAUSES = 4  # for how many times as long as it took in vain nobody tries again
# A host that is gone says nothing, so somebody has to stop waiting.
WAITING = {
    "connect_timeout": 2,  # seconds
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,  # milliseconds
}
# Nor does a machine without power: within half a minute, PostgreSQL lets go of what it held. (While
# something it sent is not acknowledged, no keepalives are sent; the last setting is for then.)
NOTICED = """
    SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
    SET tcp_user_timeout = 25000
"""
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
        self._patience = threading.local()  # `seconds` that this thread waits for the server
        with translate_connect_errors(self):
            self._unbound().close()
        self._engine = create_engine(
            "postgresql+psycopg://", creator=self._patiently, hide_parameters=True,
            poolclass=QueuePool, pool_size=POOL_SIZE, max_overflow=POOL_SIZE,
            pool_timeout=BUSY_SECONDS,
        )  # fmt: skip
        event.listen(self._engine, "checkin", _put_back)
        event.listen(self._engine, "checkout", self._check_alive)
        self._looking = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        try:
            with translate_db_errors(self, "opened"):
                self._open()
        except BaseException:
            self.close()
            raise

    def __str__(self) -> str:
        """Without the password, and without what a visitor need not know."""
        return f"the database {self._name}" if self._name else "the database"

    def connect(self, **waiting: int) -> BoundedConnection:
        """A connection outside of the pool, each statement of which is a transaction.

        Nothing bounds how long one is waited for, until `seconds` of it is set. For the connection
        itself, `WAITING` and what comes in its place do.

        Raises:
            psycopg.Error
        """
        given = conninfo_to_dict(self._url)
        settings: dict[str, Any] = {
            "application_name": "linly-chat", **WAITING, **waiting, **given,
            "client_encoding": "utf8",
        }  # fmt: skip
        return BoundedConnection.connect(**settings, autocommit=True)

    def reading(self) -> AbstractContextManager[Connection]:
        """In no transaction: nothing is held up by who only looks, and nothing but the statement
        itself travels."""
        self._check_open()
        return self._looking.connect()

    def searching(self) -> AbstractContextManager[Connection]:
        """As `reading`: no statement takes longer than `STATEMENT_SECONDS`."""
        return self.reading()

    def once(self) -> AbstractContextManager[Connection]:
        """As `reading`: a statement alone needs no other transaction to write."""
        return self.reading()

    def writing(self) -> AbstractContextManager[Connection]:
        """What two must not do at once is held by a lock on its chat's row."""
        self._check_open()
        return self._engine.begin()

    def check(self) -> None:
        self._patience.seconds = CHECK_SECONDS
        try:
            with self.reading() as connection:
                read_only = connection.exec_driver_sql("SHOW transaction_read_only").scalar_one()
        finally:
            del self._patience.seconds
        if read_only == "on":  # a standby's always are
            raise ReadOnlyError

    def close(self) -> None:
        self._closed = True
        self._engine.dispose()

    def answers(self) -> None:
        """Somebody has found out that there is no need to wait any more."""
        self._shut_until = 0.0

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError

    def _fell_silent(self) -> None:
        """SQLAlchemy gives up all connections with the one that is lost, and a new one would be
        waited for as well."""
        self._shut_until = time.monotonic() + PAUSES * silence()

    def _check_alive(self, connection: BoundedConnection, record: Any, _: object) -> None:
        """Before a connection is used again: that it is still there. Most often, no question is
        needed for that.

        Raises:
            InvalidatePoolError: it is not; nor are the others, then.
        """
        connection.seconds = getattr(self._patience, "seconds", silence())
        since = record.info.get("since")
        if since is None:  # it is new
            return
        if time.monotonic() - since < PING_SECONDS and not has_something(connection):
            return
        try:
            self._engine.dialect.do_ping(connection)  # type: ignore[arg-type]
        except psycopg.Error as error:
            raise InvalidatePoolError from error

    def _patiently(self) -> BoundedConnection:
        """For the pool: as `connect`, unless that was in vain just now, and took long."""
        began = time.monotonic()
        if began < self._shut_until:
            raise psycopg.OperationalError("it did not answer just now")
        try:
            return self._bound(self.connect())
        except psycopg.Error:
            ended = time.monotonic()
            self._shut_until = ended + PAUSES * (ended - began)
            raise

    def _bound(self, connection: BoundedConnection) -> BoundedConnection:
        """No statement waits for long: the event loop may be waiting for it. Nor does anybody wait
        for whoever died between two statements."""
        connection.seconds, connection.silent = silence(), self._fell_silent
        try:
            connection.execute(
                f"SET lock_timeout = '{BUSY_SECONDS}s';"
                f"SET statement_timeout = '{STATEMENT_SECONDS}s';"
                f"SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'; {NOTICED}"
            )
            connection.autocommit = False
        except BaseException:
            connection.close()
            raise
        return connection

    def _open(self) -> None:
        """Check and migrate, on connections that may be silent: a migration takes what it takes."""
        patient = create_engine(
            "postgresql+psycopg://", creator=self._unbound, hide_parameters=True, poolclass=NullPool
        )
        self._check(patient)
        while self._migrate(patient):
            pass

    def _check(self, engine: Engine) -> None:
        """That the database can keep every text, and find it."""
        with engine.connect() as connection:
            encoding = connection.execute(text("SHOW server_encoding")).scalar()
            known = text("SELECT 1 FROM pg_collation WHERE collname = 'und-x-icu'")
            unicode = connection.execute(known).first()
        if encoding != "UTF8":
            raise StoreError(f"{self} is not in UTF-8", "Make one with ENCODING 'UTF8'.")
        if unicode is None:
            raise StoreError(f"{self} knows no Unicode (ICU)", "Use a PostgreSQL that does.")

    def _unbound(self) -> BoundedConnection:
        connection = self.connect(connect_timeout=START_SECONDS)
        connection.autocommit = False
        return connection

    def _migrate(self, engine: Engine) -> bool:
        """One step towards the current version, all or nothing; False when there is none left."""
        with engine.begin() as connection:
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
def translate_connect_errors(place: object) -> Iterator[None]:
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


def silence() -> float:
    """Seconds after which a server that says nothing is taken to hang."""
    return STATEMENT_SECONDS + ANSWER_SECONDS


def _put_back(connection: object, record: Any) -> None:
    if connection is not None:
        record.info["since"] = time.monotonic()


def _there(connection: Connection, table: str) -> bool:
    """Whether the tables' schema has one of this name."""
    query = text("SELECT to_regclass(quote_ident(current_schema()) || '.' || :name)")
    return connection.execute(query, {"name": table}).scalar() is not None


def _run(connection: Connection, statement: str) -> None:
    """A statement as it is: what looks like a parameter in it is none."""
    connection.execution_options(no_parameters=True).exec_driver_sql(statement)
