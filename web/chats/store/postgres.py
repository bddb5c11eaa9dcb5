"""Chats in PostgreSQL, where several replicas of the program share them.

The database must be in UTF-8. The table `linly_schema` stores how many migrations have run. Options
in the address itself (libpq's, behind a "?") take precedence over those that are set here.
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

from model.translations import LocalizedText
from web.chats.store import migrations
from web.chats.store.errors import ClosedError, ReadOnlyError, StoreError, translate_db_errors
from web.chats.store.migrations import POSTGRES, statements
from web.chats.store.postgres_timeouts import BoundedConnection, has_unread_data
from web.chats.store.schema import METADATA
from web.chats.store.sqlite import APPLICATION_ID, BUSY_SECONDS, OPEN_SECONDS

START_SECONDS = 15  # for a connection at the start, when only the operator waits
POOL_SIZE = 4  # connections; as many more are opened while all are in use
STATEMENT_SECONDS = 5.0  # a search in all chats of an owner takes the longest
IDLE_SECONDS = 30.0  # between two statements of a transaction
ANSWER_SECONDS = 1.0  # beyond `STATEMENT_SECONDS`, after which the server counts as hanging
CHECK_SECONDS = 1.0  # that a check of the store waits for the server
PING_SECONDS = 5.0  # without use, after which a connection is tested before its next use
PAUSE_FACTOR = 4  # pause after a failed attempt, as a multiple of its duration
# A host that is gone sends nothing, so the client has to stop waiting.
CONNECT_OPTIONS = {
    "connect_timeout": 2,  # seconds
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,  # milliseconds
}
# A client's machine without power sends nothing either. With these settings, PostgreSQL releases
# the client's locks within half a minute. (It sends no keepalives while data is not acknowledged;
# the last setting is for that case.)
DETECT_DEAD_CLIENT = """
    SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
    SET tcp_user_timeout = 25000
"""


class Postgres:
    """PostgreSQL database at an address, migrated as needed.

    Lost connections are replaced. While the server cannot be reached, every call fails; after an
    attempt that took long, calls fail at once for a while, so that callers do not wait again and
    again.

    Raises:
        StoreError: it cannot be reached or written, is not suitable for chats, or is newer than the
            program.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._name = conninfo_to_dict(url).get("dbname")
        self._paused_until = 0.0
        self._closed = False
        self._thread_options = threading.local()  # `max_silence` of this thread's connections
        with translate_connect_errors(self):
            self._connect_unbounded().close()
        self._engine = create_engine(
            "postgresql+psycopg://", creator=self._connect_unless_paused, hide_parameters=True,
            poolclass=QueuePool, pool_size=POOL_SIZE, max_overflow=POOL_SIZE,
            pool_timeout=BUSY_SECONDS,
        )  # fmt: skip
        event.listen(self._engine, "checkin", _record_use)
        event.listen(self._engine, "checkout", self._check_alive)
        self._autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        try:
            with translate_db_errors(self, "opened"):
                self._prepare()
        except BaseException:
            self.close()
            raise

    @property
    def text(self) -> LocalizedText:
        """The database's name: without password and host, as users see it in error messages."""
        if self._name:
            return LocalizedText("the_database_named", {"name": self._name})
        return LocalizedText("the_database")

    def __str__(self) -> str:
        return self.text.message()

    def connect(self, **options: int) -> BoundedConnection:
        """Opens a connection outside of the pool, each statement of which is a transaction.

        Its statements may take any time, until `max_silence` is set. `CONNECT_OPTIONS`, and
        `options` in their place, bound the time to connect.

        Raises:
            psycopg.Error
        """
        settings: dict[str, Any] = {
            "application_name": "linly-chat", **CONNECT_OPTIONS, **options,
            **conninfo_to_dict(self._url), "client_encoding": "utf8",
        }  # fmt: skip
        return BoundedConnection.connect(**settings, autocommit=True)

    def reading(self) -> AbstractContextManager[Connection]:
        """Uses no transaction: a read blocks nothing, and takes a single round trip."""
        self._check_open()
        return self._autocommit.connect()

    def searching(self) -> AbstractContextManager[Connection]:
        """As `reading`: each statement ends after `STATEMENT_SECONDS`."""
        return self.reading()

    def single_write(self) -> AbstractContextManager[Connection]:
        """As `reading`: a single statement is a transaction by itself."""
        return self.reading()

    def transaction(self) -> AbstractContextManager[Connection]:
        """Callers that must exclude each other lock the row of the chat."""
        self._check_open()
        return self._engine.begin()

    def check(self) -> None:
        self._thread_options.max_silence = CHECK_SECONDS
        try:
            with self.reading() as connection:
                read_only = connection.exec_driver_sql("SHOW transaction_read_only").scalar_one()
        finally:
            del self._thread_options.max_silence
        if read_only == "on":  # always on a standby
            raise ReadOnlyError

    def close(self) -> None:
        self._closed = True
        self._engine.dispose()

    def mark_available(self) -> None:
        """Ends the pause: the server answers again."""
        self._paused_until = 0.0

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError

    def _pause(self) -> None:
        """Begins a pause: SQLAlchemy drops all connections with the lost one, and a new one would
        not answer either."""
        self._paused_until = time.monotonic() + PAUSE_FACTOR * max_silence()

    def _check_alive(self, connection: BoundedConnection, record: Any, _: object) -> None:
        """Tests a connection before it is used again; after recent use without a round trip.

        Raises:
            InvalidatePoolError: it is lost, and so are all others of the pool.
        """
        connection.max_silence = getattr(self._thread_options, "max_silence", max_silence())
        last_use = record.info.get("last_use")
        if last_use is None:  # it is new
            return
        if time.monotonic() - last_use < PING_SECONDS and not has_unread_data(connection):
            return
        try:
            self._engine.dialect.do_ping(connection)  # type: ignore[arg-type]
        except psycopg.Error as error:
            raise InvalidatePoolError from error

    def _connect_unless_paused(self) -> BoundedConnection:
        """Opens a connection for the pool, unless that failed just now and took long.

        Raises:
            psycopg.Error
        """
        began = time.monotonic()
        if began < self._paused_until:
            raise psycopg.OperationalError("it did not answer just now")
        try:
            return self._set_bounds(self.connect())
        except psycopg.Error:
            ended = time.monotonic()
            self._paused_until = ended + PAUSE_FACTOR * (ended - began)
            raise

    def _set_bounds(self, connection: BoundedConnection) -> BoundedConnection:
        """Bounds statements and transactions, also of a client that dies between two statements."""
        connection.max_silence, connection.on_silence = max_silence(), self._pause
        try:
            connection.execute(
                f"SET lock_timeout = '{BUSY_SECONDS}s';"
                f"SET statement_timeout = '{STATEMENT_SECONDS}s';"
                f"SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'; {DETECT_DEAD_CLIENT}"
            )
            connection.autocommit = False
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self) -> None:
        """Checks and migrates, on connections without a bound: a migration may take long."""
        engine = create_engine(
            "postgresql+psycopg://", creator=self._connect_unbounded, hide_parameters=True,
            poolclass=NullPool,
        )  # fmt: skip
        self._check_encoding(engine)
        while self._migrate(engine):
            pass

    def _check_encoding(self, engine: Engine) -> None:
        """Checks that the database can store every text, and search it.

        Raises:
            StoreError
        """
        with engine.connect() as connection:
            encoding = connection.execute(text("SHOW server_encoding")).scalar()
            collation = text("SELECT 1 FROM pg_collation WHERE collname = 'und-x-icu'")
            unicode = connection.execute(collation).first()
        if encoding != "UTF8":
            raise StoreError("database_not_utf8", database=self)
        if unicode is None:
            raise StoreError("database_without_icu", database=self)

    def _connect_unbounded(self) -> BoundedConnection:
        connection = self.connect(connect_timeout=START_SECONDS)
        connection.autocommit = False
        return connection

    def _migrate(self, engine: Engine) -> bool:
        """Runs the next migration in a transaction; returns False when there is none left."""
        with engine.begin() as connection:
            for setting in (f"lock_timeout = '{OPEN_SECONDS}s'", "statement_timeout = 0"):
                connection.execute(text(f"SET LOCAL {setting}"))
            # Replicas may start at the same moment.
            connection.execute(text(f"SELECT pg_advisory_xact_lock({APPLICATION_ID})"))
            version = self._version(connection)
            if version == len(migrations.MIGRATIONS):
                return False
            for statement in statements(migrations.MIGRATIONS[version], POSTGRES):
                _run(connection, statement)
            _run(connection, f"UPDATE linly_schema SET version = {version + 1}")  # noqa: S608
        return True

    def _version(self, connection: Connection) -> int:
        """Returns how many migrations have run.

        Raises:
            StoreError: the database is newer than this program, or another program's.
        """
        if not _table_exists(connection, "linly_schema"):
            if any(_table_exists(connection, table) for table in METADATA.tables):
                raise StoreError("database_of_another_program", database=self)
            _run(connection, "CREATE TABLE linly_schema (version INTEGER NOT NULL)")
            _run(connection, "INSERT INTO linly_schema VALUES (0)")
        version = int(connection.execute(text("SELECT version FROM linly_schema")).scalar_one())
        if version > len(migrations.MIGRATIONS):
            raise StoreError(
                "database_newer",
                database=self,
            )
        return version


@contextmanager
def translate_connect_errors(place: object) -> Iterator[None]:
    """Tells the operator why there is no connection.

    Raises:
        StoreError: in place of `psycopg.Error`.
    """
    try:
        yield
    except psycopg.Error as error:
        raise StoreError(
            "database_not_opened",
            place=place,
            error=first_line(error),
        ) from error


def first_line(error: psycopg.Error) -> str:
    """Returns libpq's reason in one line; libpq never repeats the password."""
    line = str(error).strip().partition("\n")[0]
    for prefix in ("connection failed: ", "connection is bad: "):
        line = line.removeprefix(prefix)
    return line


def max_silence() -> float:
    """Returns the seconds without a sign of the server after which it counts as hanging."""
    return STATEMENT_SECONDS + ANSWER_SECONDS


def _record_use(connection: object, record: Any) -> None:
    if connection is not None:
        record.info["last_use"] = time.monotonic()


def _table_exists(connection: Connection, table: str) -> bool:
    """Whether the current schema has a table of this name."""
    query = text("SELECT to_regclass(quote_ident(current_schema()) || '.' || :name)")
    return connection.execute(query, {"name": table}).scalar() is not None


def _run(connection: Connection, statement: str) -> None:
    """Executes a statement as it is, without parameters, also where it seems to have some."""
    connection.execution_options(no_parameters=True).exec_driver_sql(statement)
