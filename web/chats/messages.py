"""The messages of chats, and how replies come into being in the store."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from model.types import RequestError
from web.chats.codec import clean, runs_from, runs_text
from web.chats.database import Database, check_chat, check_message
from web.chats.errors import UnknownChatError
from web.chats.records import ChatMessage, Run, State

MOST_TEXT = 2_000_000  # bytes of one message
COLUMNS = "id, parent, role, text, state, created, error, comparison, runs, repeats"


class Messages(Database):
    """What people see and do is scoped by owner; what a server does to its replies is not."""

    def messages(self, owner: str, chat: str) -> dict[str, ChatMessage]:
        """All of a chat's messages by id, in order of creation.

        Raises:
            UnknownChatError, StoreError
        """
        query = f"SELECT {COLUMNS} FROM messages WHERE chat = ? ORDER BY number"  # noqa: S608
        with self._reading() as connection:
            check_chat(connection, owner, chat)
            found = [_message(row) for row in connection.execute(query, (chat,))]
        return {message.id: message for message in found}

    def message(self, owner: str, message: str) -> tuple[str, ChatMessage]:
        """A message of any of the owner's chats, after the id of the chat.

        Raises:
            UnknownChatError, StoreError
        """
        query = f"SELECT chat, {COLUMNS} FROM messages WHERE id = ?"  # noqa: S608
        with self._reading() as connection:
            row = connection.execute(query, (message,)).fetchone()
            if row is None:
                raise UnknownChatError
            check_chat(connection, owner, row[0])
        return row[0], _message(row[1:])

    def add(self, owner: str, chat: str, message: ChatMessage, server: str = "") -> None:
        """Put a message into a chat. Outside of a comparison, it becomes the head.

        Args:
            server: the process that writes it while it streams.

        Raises:
            UnknownChatError: the chat is not there, or the message's parent not in it.
            RequestError: its text is too long.
            StoreError
        """
        message = storable(message)
        with self._writing() as connection:
            check_chat(connection, owner, chat)
            check_message(connection, chat, message.parent)
            insert_message(connection, chat, message, server)
            _touch(connection, chat)
            if message.comparison is None:
                connection.execute("UPDATE chats SET head = ? WHERE id = ?", (message.id, chat))

    def reopen(self, owner: str, message: ChatMessage, server: str) -> None:
        """Let a reply stream on, with the runs that it has now; its text stays as it is.

        Raises:
            UnknownChatError: it is not there.
            RequestError: it is streaming.
            StoreError
        """
        with self._writing() as connection:
            row = connection.execute(
                "SELECT chat, state FROM messages WHERE id = ?", (message.id,)
            ).fetchone()
            if row is None:
                raise UnknownChatError
            check_chat(connection, owner, row[0])
            if row[1] == State.STREAMING:
                raise RequestError("This reply is in the making already", "Wait for its end.")
            connection.execute(
                "UPDATE messages SET state = ?, error = '', runs = ?, server = ? WHERE id = ?",
                (State.STREAMING.value, runs_text(message.runs), server, message.id),
            )
            _touch(connection, row[0])

    def save_text(self, message: str, text: str) -> None:
        """What a reply has come to. Nothing happens if it does not stream any more.

        Raises:
            StoreError
        """
        query = "UPDATE messages SET text = ? WHERE id = ? AND state = 'streaming'"
        with self._writing() as connection:
            connection.execute(query, (clean(text), message))

    def save_runs(self, message: str, runs: tuple[Run, ...]) -> None:
        """How a reply is made. Nothing happens if it does not stream any more.

        Raises:
            StoreError
        """
        query = "UPDATE messages SET runs = ? WHERE id = ? AND state = 'streaming'"
        with self._writing() as connection:
            connection.execute(query, (runs_text(runs), message))

    def finish(self, message: ChatMessage) -> None:
        """A reply as it ended: its text, state, error and runs. No matter if it was purged.

        Raises:
            StoreError
        """
        values = (
            clean(message.text), message.state.value, clean(message.error),
            runs_text(message.runs), message.id,
        )  # fmt: skip
        with self._writing() as connection:
            connection.execute(
                "UPDATE messages SET text = ?, state = ?, error = ?, runs = ?, server = ''"
                " WHERE id = ?",
                values,
            )

    def interrupt(self, alive: Callable[[str], bool]) -> int:
        """Mark the replies as interrupted that no living server writes; how many.

        Args:
            alive: whether the server of this id lives. A dead one's id does not come back.

        Raises:
            StoreError
        """
        with self._reading() as connection:
            found = connection.execute(
                "SELECT DISTINCT server FROM messages WHERE state = 'streaming'"
            ).fetchall()
        dead = [(server,) for (server,) in found if not alive(server)]
        if not dead:
            return 0
        with self._writing() as connection:
            return connection.executemany(
                "UPDATE messages SET state = 'interrupted', server = ''"
                " WHERE state = 'streaming' AND server = ?",
                dead,
            ).rowcount


def storable(message: ChatMessage) -> ChatMessage:
    """The message with text that can be encoded.

    Raises:
        RequestError: its text is too long.
    """
    text = clean(message.text)
    check_length(text)
    return replace(message, text=text, error=clean(message.error))


def check_length(text: str) -> None:
    """That a text is not too long to be kept.

    Raises:
        RequestError: it is.
    """
    if len(text.encode()) > MOST_TEXT:
        raise RequestError(
            f"The text is longer than {MOST_TEXT // 1_000_000} MB", "Shorten it, or split it."
        )


def insert_message(
    connection: sqlite3.Connection, chat: str, message: ChatMessage, server: str = ""
) -> None:
    """Within a transaction. The message is `storable`."""
    values = (
        message.id, message.parent, message.role, message.text, message.state.value,
        message.created, message.error, message.comparison, runs_text(message.runs),
        message.repeats, chat, server,
    )  # fmt: skip
    places = ", ".join("?" for _ in values)
    connection.execute(
        f"INSERT INTO messages ({COLUMNS}, chat, server) VALUES ({places})",  # noqa: S608
        values,
    )


def _touch(connection: sqlite3.Connection, chat: str) -> None:
    connection.execute("UPDATE chats SET updated = ? WHERE id = ?", (time.time(), chat))


def _message(row: tuple[Any, ...]) -> ChatMessage:
    number, parent, role, text, state, created, error, comparison, runs, repeats = row
    return ChatMessage(
        number, parent, role, text, State(state), created, error, comparison,
        runs_from(runs), repeats,
    )  # fmt: skip
