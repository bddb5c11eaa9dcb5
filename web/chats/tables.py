"""The tables, as the store's queries see them in either database.

Nothing is made from these: that is what `migrations` do.
"""

from __future__ import annotations

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


class Words(TypeDecorator[str]):
    """Text. PostgreSQL knows none with NUL, so an id that has one is one that nothing has."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value and dialect.name == "postgresql":
            return value.replace("\0", "\ufffd")
        return value


METADATA = MetaData()
CHATS = Table(
    "chats",
    METADATA,
    Column("number", BigInteger),
    Column("id", Words, primary_key=True),
    Column("owner", Words),
    Column("title", Words),
    Column("named", Integer),
    Column("created", Double),
    Column("updated", Double),
    Column("deleted", Double),
    Column("head", Words),
    Column("settings", Words),
)
MESSAGES = Table(
    "messages",
    METADATA,
    Column("number", BigInteger),
    Column("id", Words, primary_key=True),
    Column("chat", Words),
    Column("parent", Words),
    Column("role", Words),
    Column("state", Words),
    Column("created", Double),
    Column("error", Words),
    Column("comparison", Words),
    Column("repeats", Words),
    Column("server", Words),
    Column("runs", Words),
    Column("text", Words),
)
VOTES = Table(
    "votes",
    METADATA,
    Column("chat", Words, primary_key=True),
    Column("comparison", Words, primary_key=True),
    Column("winner", Words),
    Column("created", Double),
)
SNIPPETS = Table(
    "snippets",
    METADATA,
    Column("owner", Words, primary_key=True),
    Column("name", Words, primary_key=True),
    Column("text", Words),
)
PRESETS = Table(
    "presets",
    METADATA,
    Column("owner", Words, primary_key=True),
    Column("name", Words, primary_key=True),
    Column("sampling", Words),
)


def put(
    connection: Connection, table: Table, row: Mapping[str, Any] | Sequence[Mapping[str, Any]]
) -> None:
    """Within a transaction: the whole row, or several, each in place of the one with its key."""
    connection.execute(_putting(connection.dialect.name, table), row)


@lru_cache
def _putting(dialect: str, table: Table) -> sqlite.Insert | postgresql.Insert:
    """Of rows that have a value for each column."""
    insert = _replacing(dialect, table)
    keys = [key.name for key in table.primary_key]
    rest = {c.name: insert.excluded[c.name] for c in table.columns if not c.primary_key}
    return insert.on_conflict_do_update(index_elements=keys, set_=rest)


def _replacing(dialect: str, table: Table) -> sqlite.Insert | postgresql.Insert:
    """Both databases can replace a row, in the same words; SQLAlchemy has them twice."""
    if dialect == "sqlite":
        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # whoever has none need not wait for it

    return postgresql.insert(table)
