"""Migrations and other programs, over both databases: each is tested by what the files contain."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import psycopg
import pytest

from model.config.settings import CHECKOUT
from tests.web.chats.conftest import store_at
from tests.web.chats.store.samples import MEI, SETTINGS
from tests.web.postgres import PostgresServer, execute, rows
from web.chats.store import migrations, postgres, sqlite
from web.chats.store.errors import StoreError
from web.chats.store.migrations import MIGRATIONS, POSTGRES, SQLITE, statements

LATER = (
    "CREATE TABLE counted (number INTEGER);\nINSERT INTO counted VALUES (1);",
    "INSERT INTO counted VALUES (2);",
)
BROKEN = "CREATE TABLE half (x INTEGER);\nINSERT INTO nowhere VALUES (1);"
POSTGRES_COLUMNS = """
    SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns
    WHERE table_schema = 'public' ORDER BY 1, 2
"""


@dataclass(frozen=True)
class RawDatabase:
    """A database at an `address`, looked into without the store."""

    address: str

    @property
    def is_sqlite(self) -> bool:
        return "://" not in self.address

    def open_and_close(self) -> None:
        """Opens the database with the store, which migrates it."""
        store_at(self.address).close()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        if not self.is_sqlite:
            return rows(self.address, query)
        with closing(sqlite3.connect(self.address)) as connection:
            return connection.execute(query).fetchall()

    def execute(self, statement: str) -> None:
        if not self.is_sqlite:
            execute(self.address, statement)
            return
        with closing(sqlite3.connect(self.address, isolation_level=None)) as connection:
            connection.execute(statement)

    @property
    def version(self) -> int:
        """How many migrations have run."""
        query = "PRAGMA user_version" if self.is_sqlite else "SELECT version FROM linly_schema"
        ((version,),) = self.rows(query)
        return int(version)

    def set_version(self, version: int) -> None:
        self.execute(
            f"PRAGMA user_version = {version}"
            if self.is_sqlite
            else f"UPDATE linly_schema SET version = {version}"  # noqa: S608
        )

    def schema(self) -> list[tuple[Any, ...]]:
        """The tables with their columns, as the database describes them."""
        if self.is_sqlite:
            return self.rows("SELECT name, sql FROM sqlite_master ORDER BY name")
        return self.rows(POSTGRES_COLUMNS)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """As if another program were writing in all chats."""
        if self.is_sqlite:
            with closing(sqlite3.connect(self.address)) as other:
                other.execute("BEGIN IMMEDIATE")
                yield
                other.rollback()
        else:
            with psycopg.connect(self.address) as connection:
                connection.execute("SELECT 1 FROM chats FOR UPDATE")
                yield
                connection.rollback()


@pytest.fixture
def database(address: str) -> RawDatabase:
    return RawDatabase(address)


@pytest.fixture
def another_database(
    database: RawDatabase, tmp_path: Path, request: pytest.FixtureRequest
) -> RawDatabase:
    """An empty database of the same kind."""
    if database.is_sqlite:
        return RawDatabase(str(tmp_path / "another.db"))
    server: PostgresServer = request.getfixturevalue("server")
    return RawDatabase(server.database())


@pytest.fixture
def later_migrations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds two migrations."""
    monkeypatch.setattr(migrations, "MIGRATIONS", MIGRATIONS + LATER)


@pytest.mark.usefixtures("later_migrations")
@pytest.mark.parametrize("number", range(len(MIGRATIONS) + len(LATER) + 1))
def test_database_of_every_earlier_version_is_migrated(
    database: RawDatabase,
    another_database: RawDatabase,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS[:number])
        database.open_and_close()
    assert database.version == number
    database.open_and_close()
    assert database.rows("SELECT number FROM counted ORDER BY number") == [(1,), (2,)]
    another_database.open_and_close()
    assert database.schema() == another_database.schema()


def test_failed_migration_leaves_nothing(
    database: RawDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.open_and_close()
    monkeypatch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, LATER[0], BROKEN))
    with pytest.raises(StoreError, match="nowhere"):
        database.open_and_close()
    assert database.version == len(MIGRATIONS) + 1
    assert "half" not in {table for table, *_ in database.schema()}


def test_newer_database_is_left_alone(database: RawDatabase) -> None:
    database.open_and_close()
    database.set_version(99)
    before = database.schema()
    with pytest.raises(StoreError, match="was written by a newer version") as caught:
        database.open_and_close()
    assert caught.value.remedy.startswith("Start that version")
    assert (database.version, database.schema()) == (99, before)


def test_another_program_s_database_is_left_alone(database: RawDatabase) -> None:
    database.execute("CREATE TABLE messages (x INTEGER)")
    before = database.schema()
    with pytest.raises(StoreError, match="another program"):
        database.open_and_close()
    assert database.schema() == before


OPEN_WHEN_TOLD = """
import sys, time
from pathlib import Path
from tests.web.chats.conftest import store_at
from web.chats.store import migrations

address, go = sys.argv[1], Path(sys.argv[2])
migrations.MIGRATIONS += tuple(sys.argv[3:])
print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
store_at(address).close()
"""


def test_processes_that_open_at_once_run_each_migration_once(
    database: RawDatabase, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_WHEN_TOLD, database.address, str(go), *LATER],
            cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    for child in children:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
    go.touch()
    for child in children:
        _, error = child.communicate(timeout=60)
        assert child.returncode == 0, error
    assert database.rows("SELECT number FROM counted ORDER BY number") == [(1,), (2,)]
    assert database.version == len(MIGRATIONS) + len(LATER)


def test_lock_of_another_program_is_waited_for_briefly(
    database: RawDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads go on meanwhile."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    monkeypatch.setattr(postgres, "BUSY_SECONDS", 0.1)
    reason = "another program is using" if database.is_sqlite else r"the database test\d+ is busy"
    with closing(store_at(database.address)) as store:
        chat = store.create(MEI, "title", SETTINGS).id
        with database.locked():
            with pytest.raises(StoreError, match=f"cannot be saved: {reason}"):
                store.rename(MEI, chat, "new")
            assert store.chat(MEI, chat).title == "title"
        store.rename(MEI, chat, "new")


def test_both_databases_have_the_same_columns(url: str, tmp_path: Path) -> None:
    in_postgres, in_sqlite = RawDatabase(url), RawDatabase(str(tmp_path / "chats.db"))
    in_postgres.open_and_close()
    in_sqlite.open_and_close()
    columns = {(table, column) for table, column, *_ in in_postgres.schema()}
    assert columns - {("linly_schema", "version")} == {
        (table, column)
        for (table,) in in_sqlite.rows("SELECT name FROM sqlite_master WHERE type = 'table'")
        for _, column, *_ in in_sqlite.rows(f"PRAGMA table_info({table})")
    }
    (script,) = MIGRATIONS
    for types in (SQLITE, POSTGRES):
        assert len(list(statements(script, types))) == 9


def test_statements_ends_at_semicolons_outside_of_texts_and_triggers() -> None:
    script = """
        CREATE TABLE a (x TEXT DEFAULT ';');
        CREATE TRIGGER t AFTER INSERT ON a BEGIN
            DELETE FROM a;
            SELECT 1;
        END;
    """
    assert len(list(statements(script, SQLITE))) == 2


def test_every_migration_ends_with_a_semicolon() -> None:
    """A statement without one would be skipped."""
    for script in (*MIGRATIONS, *LATER):
        full_text = Template(script).substitute(SQLITE)
        assert "".join(statements(script, SQLITE)).rstrip() == full_text.rstrip()
