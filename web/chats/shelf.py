"""What else is kept of an owner: votes, prompts to use again, and sampling under names."""

from __future__ import annotations

import sqlite3

from model.types import RequestError
from web.chats.codec import clean, sampling_from, sampling_text
from web.chats.database import Database, check_chat
from web.chats.errors import UnknownChatError
from web.chats.messages import check_length
from web.chats.records import SavedPreset, Snippet, Vote

MOST_NAME = 60  # characters
MOST_KEPT = 500  # prompts of one owner, and presets


class Shelf(Database):
    """Names are unique for each owner: what is saved under one replaces what was there."""

    def vote(self, owner: str, vote: Vote) -> None:
        """Keep what somebody thinks of a comparison, in place of what they thought before.

        Raises:
            UnknownChatError: the chat is not there, or the comparison or its winner not in it.
            StoreError
        """
        with self._writing() as connection:
            check_chat(connection, owner, vote.chat)
            rivals = connection.execute(
                "SELECT id FROM messages WHERE chat = ? AND comparison = ?",
                (vote.chat, vote.comparison),
            ).fetchall()
            if not rivals or (vote.winner is not None and (vote.winner,) not in rivals):
                raise UnknownChatError
            insert_vote(connection, vote)

    def votes(self, owner: str, chat: str | None = None) -> list[Vote]:
        """The owner's votes, in one chat or all of them, oldest first.

        Raises:
            StoreError
        """
        query = """
            SELECT comparison, chat, winner, votes.created FROM votes
            JOIN chats ON chats.id = chat
            WHERE owner = ? AND deleted IS NULL AND chat = coalesce(?, chat)
            ORDER BY votes.created, comparison
        """
        with self._reading() as connection:
            return [Vote(*row) for row in connection.execute(query, (owner, chat))]

    def snippets(self, owner: str) -> list[str]:
        """The names of the owner's prompts, sorted.

        Raises:
            StoreError
        """
        with self._reading() as connection:
            found = connection.execute("SELECT name FROM snippets WHERE owner = ?", (owner,))
            return sorted((name for (name,) in found), key=_by_name)

    def snippet(self, owner: str, name: str) -> str:
        """The text of one of the owner's prompts; "" if it is gone.

        Raises:
            StoreError
        """
        query = "SELECT text FROM snippets WHERE owner = ? AND name = ?"
        with self._reading() as connection:
            (text,) = connection.execute(query, (owner, name)).fetchone() or ("",)
        return str(text)

    def save_snippet(self, owner: str, snippet: Snippet) -> None:
        """Keep a prompt under its name.

        Raises:
            RequestError: its name is empty, it is too long, or there are too many.
            StoreError
        """
        name, text = checked_name(snippet.name), clean(snippet.text)
        check_length(text)
        with self._writing() as connection:
            _check_room(connection, "snippets", owner, name)
            connection.execute(
                "INSERT OR REPLACE INTO snippets (owner, name, text) VALUES (?, ?, ?)",
                (owner, name, text),
            )

    def delete_snippet(self, owner: str, name: str) -> None:
        """Forget a prompt, if it is there.

        Raises:
            StoreError
        """
        with self._writing() as connection:
            connection.execute("DELETE FROM snippets WHERE owner = ? AND name = ?", (owner, name))

    def presets(self, owner: str) -> list[SavedPreset]:
        """The owner's sampling settings, by name.

        Raises:
            StoreError
        """
        query = "SELECT name, sampling FROM presets WHERE owner = ?"
        with self._reading() as connection:
            found = connection.execute(query, (owner,)).fetchall()
        presets = [SavedPreset(name, sampling_from(sampling)) for name, sampling in found]
        return sorted(presets, key=lambda preset: _by_name(preset.name))

    def save_preset(self, owner: str, preset: SavedPreset) -> None:
        """Keep sampling settings under their name.

        Raises:
            RequestError: the name is empty or too long, or there are too many.
            StoreError
        """
        name = checked_name(preset.name)
        values = (owner, name, sampling_text(preset.sampling))
        with self._writing() as connection:
            _check_room(connection, "presets", owner, name)
            connection.execute(
                "INSERT OR REPLACE INTO presets (owner, name, sampling) VALUES (?, ?, ?)", values
            )

    def delete_preset(self, owner: str, name: str) -> None:
        """Forget sampling settings, if they are there.

        Raises:
            StoreError
        """
        with self._writing() as connection:
            connection.execute("DELETE FROM presets WHERE owner = ? AND name = ?", (owner, name))


def checked_name(name: str) -> str:
    """The name without the space around it.

    Raises:
        RequestError: nothing is left, or too much.
    """
    name = clean(name.strip())
    if not 1 <= len(name) <= MOST_NAME:
        raise RequestError(f"A name has 1 to {MOST_NAME} characters", "Choose another one.")
    return name


def _by_name(name: str) -> tuple[str, str]:
    return name.casefold(), name


def _check_room(connection: sqlite3.Connection, table: str, owner: str, name: str) -> None:
    """Within a transaction: that there is room for one of this name.

    Raises:
        RequestError: there are too many others.
    """
    query = f"SELECT count(*) FROM {table} WHERE owner = ? AND name <> ?"  # noqa: S608
    (others,) = connection.execute(query, (owner, name)).fetchone()
    if others >= MOST_KEPT:
        raise RequestError(f"There is no room for more than {MOST_KEPT}", "Delete some first.")


def insert_vote(connection: sqlite3.Connection, vote: Vote) -> None:
    """Within a transaction; an earlier vote goes."""
    connection.execute(
        "INSERT OR REPLACE INTO votes (chat, comparison, winner, created) VALUES (?, ?, ?, ?)",
        (vote.chat, vote.comparison, vote.winner, vote.created),
    )
