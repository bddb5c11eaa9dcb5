"""The chats themselves, without their messages."""

from __future__ import annotations

import sqlite3
import time
import uuid
from typing import Any

from web.chats.codec import clean, settings_from, settings_text
from web.chats.database import Database, check_chat, check_message
from web.chats.errors import UnknownChatError
from web.chats.records import Chat, ChatSettings
from web.chats.titles import MOST_TITLE, checked_title, one_line

MOST_QUERY = 200  # characters of what is searched for
MOST_LISTED = 500  # chats, unless more are asked for
COLUMNS = "id, title, created, updated, head, settings"
FOUND = """
    SELECT {columns} FROM chats WHERE owner = :owner AND deleted IS NULL AND (
        {title} OR EXISTS (SELECT 1 FROM messages WHERE chat = chats.id AND {text})
    ) ORDER BY updated DESC, number DESC LIMIT :limit
"""


class Chats(Database):
    """Each query is about one owner's chats; those that were deleted are as if they were not."""

    def create(self, owner: str, title: str, settings: ChatSettings) -> Chat:
        """A new chat without messages.

        Raises:
            StoreError
        """
        now = time.time()
        chat = Chat(uuid.uuid4().hex, title, now, now, None, settings)
        with self._writing() as connection:
            return insert_chat(connection, owner, chat)

    def chat(self, owner: str, chat: str) -> Chat:
        """One of the owner's chats.

        Raises:
            UnknownChatError, StoreError
        """
        query = f"SELECT {COLUMNS} FROM chats WHERE id = ? AND owner = ? AND deleted IS NULL"  # noqa: S608
        with self._reading() as connection:
            row = connection.execute(query, (chat, owner)).fetchone()
        if row is None:
            raise UnknownChatError
        return _chat(row)

    def chats(self, owner: str, query: str = "", limit: int = MOST_LISTED) -> list[Chat]:
        """The owner's chats, the one that was last written in first.

        Args:
            query: what the title or a message has to contain, in whatever case.

        Raises:
            StoreError
        """
        values: dict[str, Any] = {"owner": owner, "limit": limit}
        title = text = "TRUE"
        query = clean(query.strip()[:MOST_QUERY])
        if query:
            condition, values["query"] = _condition(query)
            title, text = condition.format("title"), condition.format("text")
        with self._reading() as connection:
            found = connection.execute(
                FOUND.format(columns=COLUMNS, title=title, text=text), values
            )
            return [_chat(row) for row in found]

    def rename(self, owner: str, chat: str, title: str) -> None:
        """Give a chat a title of its owner's own.

        Raises:
            RequestError: the title is empty, or too long.
            UnknownChatError, StoreError
        """
        title = clean(checked_title(title))
        self._change(owner, chat, "title = :value, named = 1", title)

    def set_settings(self, owner: str, chat: str, settings: ChatSettings) -> None:
        """How the chat is to be answered from now on.

        Raises:
            UnknownChatError, StoreError
        """
        self._change(owner, chat, "settings = :value", settings_text(settings))

    def set_head(self, owner: str, chat: str, message: str | None) -> None:
        """Which message the branch ends with that is shown.

        Raises:
            UnknownChatError: the chat is not there, or the message not in it.
            StoreError
        """
        with self._writing() as connection:
            check_chat(connection, owner, chat)
            check_message(connection, chat, message)
            connection.execute("UPDATE chats SET head = ? WHERE id = ?", (message, chat))

    def delete(self, owner: str, chat: str) -> None:
        """Put a chat away. `restore` brings it back, until it is purged.

        Raises:
            UnknownChatError, StoreError
        """
        self._change(owner, chat, "deleted = :value", time.time())

    def restore(self, owner: str, chat: str) -> None:
        """Bring a deleted chat back as it was; one that is there stays.

        Raises:
            UnknownChatError, StoreError
        """
        query = "UPDATE chats SET deleted = NULL WHERE id = ? AND owner = ?"
        with self._writing() as connection:
            if not connection.execute(query, (chat, owner)).rowcount:
                raise UnknownChatError

    def purge(self, before: float) -> int:
        """Destroy what was deleted before a time, in seconds since 1970; how many chats.

        Raises:
            StoreError
        """
        with self._writing() as connection:
            return connection.execute("DELETE FROM chats WHERE deleted < ?", (before,)).rowcount

    def purge_owners(self, prefix: str, before: float) -> int:
        """Destroy the chats of owners whose name begins so, if nothing was said in them since.

        Raises:
            StoreError
        """
        query = "DELETE FROM chats WHERE substr(owner, 1, ?) = ? AND updated < ?"
        with self._writing() as connection:
            return connection.execute(query, (len(prefix), prefix, before)).rowcount

    def _change(self, owner: str, chat: str, change: str, value: str | float) -> None:
        query = f"UPDATE chats SET {change} WHERE id = :chat AND owner = :owner"  # noqa: S608
        values = {"chat": chat, "owner": owner, "value": value}
        with self._writing() as connection:
            check_chat(connection, owner, chat)
            connection.execute(query, values)


def insert_chat(connection: sqlite3.Connection, owner: str, chat: Chat) -> Chat:
    """Within a transaction; the chat as it was stored."""
    title = clean(one_line(chat.title))[:MOST_TITLE]
    row = (
        chat.id, owner, title, chat.created, chat.updated, chat.head, settings_text(chat.settings)
    )  # fmt: skip
    connection.execute(
        "INSERT INTO chats (id, owner, title, created, updated, head, settings)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        row,
    )
    return Chat(chat.id, title, chat.created, chat.updated, chat.head, chat.settings)


def _condition(query: str) -> tuple[str, str]:
    """SQL that says whether {} contains the query, and the value of :query in it.

    LIKE is several times as fast, but knows only A to Z in both cases.
    """
    if all(letter.isascii() or letter.lower() == letter.upper() for letter in query):
        escaped = "".join(f"\\{letter}" if letter in "\\%_" else letter for letter in query)
        return "{} LIKE :query ESCAPE '\\'", f"%{escaped}%"
    return "holds({}, :query)", query.casefold()


def _chat(row: tuple[Any, ...]) -> Chat:
    number, title, created, updated, head, settings = row
    return Chat(number, title, created, updated, head, settings_from(settings))
