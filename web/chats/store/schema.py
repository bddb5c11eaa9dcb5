"""The tables, as the store's queries see them in either database.

They are not used to create the database: `migrations` do that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Dialect,
    Double,
    Integer,
    MetaData,
    Table,
    Text,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.types import TypeDecorator

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql

MAX_KEY = 200  # characters; an id has 32, a name 60, an owner few more than an account's name


class SafeText(TypeDecorator[str]):
    """Text. PostgreSQL takes no NUL, so it is replaced: an id with NUL matches no row."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value and dialect.name == "postgresql":
            return value.replace("\0", "\ufffd")
        return value


class Key(SafeText):
    """A short text that rows are looked up by.

    A text that is longer than any of the program's own comes from outside. Its digest is used in
    its place, so that megabytes of it are neither sent to the database nor stored.
    """

    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value and len(value) > MAX_KEY:
            return hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()
        return super().process_bind_param(value, dialect)


METADATA = MetaData()
CHATS = Table(
    "chats",
    METADATA,
    Column("number", BigInteger),
    Column("id", Key, primary_key=True),
    Column("owner", Key),
    Column("title", SafeText),
    Column("named", Integer),
    Column("created", Double),
    Column("updated", Double),
    Column("deleted", Double),
    Column("head", Key),
    Column("settings", SafeText),
)
MESSAGES = Table(
    "messages",
    METADATA,
    Column("number", BigInteger),
    Column("id", Key, primary_key=True),
    Column("chat", Key),
    Column("parent", Key),
    Column("role", SafeText),
    Column("state", SafeText),
    Column("created", Double),
    Column("error", SafeText),
    Column("comparison", Key),
    Column("repeats", Key),
    Column("server", Key),
    Column("runs", SafeText),
    Column("text", SafeText),
)
VOTES = Table(
    "votes",
    METADATA,
    Column("chat", Key, primary_key=True),
    Column("comparison", Key, primary_key=True),
    Column("winner", Key),
    Column("created", Double),
)
SNIPPETS = Table(
    "snippets",
    METADATA,
    Column("owner", Key, primary_key=True),
    Column("name", Key, primary_key=True),
    Column("text", SafeText),
)
PRESETS = Table(
    "presets",
    METADATA,
    Column("owner", Key, primary_key=True),
    Column("name", Key, primary_key=True),
    Column("sampling", SafeText),
)


def upsert(
    connection: Connection, table: Table, row: Mapping[str, Any] | Sequence[Mapping[str, Any]]
) -> None:
    """Inserts one or more rows, with values for all columns, or replaces those with the same key.

    Runs within the caller's transaction.
    """
    connection.execute(_upsert_statement(connection.dialect.name, table), row)


@lru_cache
def _upsert_statement(dialect: str, table: Table) -> sqlite.Insert | postgresql.Insert:
    insert = _insert_statement(dialect, table)
    keys = [key.name for key in table.primary_key]
    values = {c.name: insert.excluded[c.name] for c in table.columns if not c.primary_key}
    return insert.on_conflict_do_update(index_elements=keys, set_=values)


def _insert_statement(dialect: str, table: Table) -> sqlite.Insert | postgresql.Insert:
    """Both databases can replace a row in the same way; SQLAlchemy has a class for each."""
    if dialect == "sqlite":
        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # costs start-up time that SQLite does not need

    return postgresql.insert(table)
