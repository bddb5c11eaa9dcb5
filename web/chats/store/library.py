"""The tables of votes, saved prompts and saved presets."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Delete, Select, bindparam, delete, func, select

from model.errors import RequestError
from web.chats.store.database import Database, lock_chat
from web.chats.store.errors import UnknownChatError
from web.chats.store.models import SavedPreset, Snippet, Vote, check_length, sanitize_text
from web.chats.store.schema import CHATS, MESSAGES, PRESETS, SNIPPETS, VOTES, upsert
from web.chats.store.serialization import sampling_from, sampling_text

MAX_NAME = 60  # characters
MAX_ITEMS_PER_OWNER = 500  # prompts of one owner, and as many presets
REPLIES_OF_COMPARISON = select(MESSAGES.c.id).where(
    MESSAGES.c.chat == bindparam("chat"), MESSAGES.c.comparison == bindparam("comparison")
)
VOTES_OF_OWNER = (
    select(VOTES.c.comparison, VOTES.c.chat, VOTES.c.winner, VOTES.c.created)
    .join(CHATS, CHATS.c.id == VOTES.c.chat)
    .where(CHATS.c.owner == bindparam("owner"), CHATS.c.deleted.is_(None))
)
VOTES_OF_CHAT = VOTES_OF_OWNER.where(VOTES.c.chat == bindparam("chat"))
SNIPPET_NAMES = select(SNIPPETS.c.name).where(SNIPPETS.c.owner == bindparam("owner"))
SNIPPET_TEXT = select(SNIPPETS.c.text).where(
    SNIPPETS.c.owner == bindparam("owner"), SNIPPETS.c.name == bindparam("name")
)
PRESETS_OF_OWNER = select(PRESETS.c.name, PRESETS.c.sampling).where(
    PRESETS.c.owner == bindparam("owner")
)
COUNT_OTHER_SNIPPETS, COUNT_OTHER_PRESETS = (
    select(func.count()).where(
        table.c.owner == bindparam("owner"), table.c.name != bindparam("name")
    )
    for table in (SNIPPETS, PRESETS)
)
DELETE_SNIPPET, DELETE_PRESET = (
    delete(table).where(table.c.owner == bindparam("owner"), table.c.name == bindparam("name"))
    for table in (SNIPPETS, PRESETS)
)


class LibraryTable(Database):
    """Votes, prompts and presets. Saving replaces the owner's earlier item of that name."""

    def vote(self, owner: str, vote: Vote) -> None:
        """Saves a vote in a comparison, in place of an earlier one.

        Raises:
            UnknownChatError: there is no such chat, or the comparison or its winner is not in it.
            StoreError
        """
        with self.transaction() as connection:
            lock_chat(connection, owner, vote.chat)
            compared = {"chat": vote.chat, "comparison": vote.comparison}
            replies = connection.execute(REPLIES_OF_COMPARISON, compared).scalars().all()
            if not replies or (vote.winner is not None and vote.winner not in replies):
                raise UnknownChatError
            upsert(connection, VOTES, vote_row(vote))

    def votes(self, owner: str, chat: str | None = None) -> list[Vote]:
        """Returns the owner's votes, in one chat or in all of them, oldest first.

        Raises:
            StoreError
        """
        query, values = (VOTES_OF_OWNER, {}) if chat is None else (VOTES_OF_CHAT, {"chat": chat})
        with self.reading() as connection:
            votes = [Vote(*row) for row in connection.execute(query, {"owner": owner, **values})]
        return sorted(votes, key=lambda vote: (vote.created, vote.comparison))

    def snippets(self, owner: str) -> list[str]:
        """Returns the sorted names of the owner's prompts.

        Raises:
            StoreError
        """
        with self.reading() as connection:
            names = connection.execute(SNIPPET_NAMES, {"owner": owner}).scalars()
            return sorted(names, key=_sort_key)

    def snippet(self, owner: str, name: str) -> str:
        """Returns the text of one of the owner's prompts; "" if there is none of this name.

        Raises:
            StoreError
        """
        with self.reading() as connection:
            texts = connection.execute(SNIPPET_TEXT, {"owner": owner, "name": name})
            return texts.scalar() or ""

    def save_snippet(self, owner: str, snippet: Snippet) -> None:
        """Saves a prompt under its name.

        Raises:
            RequestError: its name is empty, it is too long, or there is no room for it.
            StoreError
        """
        name, text = validate_name(snippet.name), sanitize_text(snippet.text)
        check_length(text)
        self._reserve_room(owner, size=len(text.encode()))
        with self.transaction() as connection:
            _check_count(connection, COUNT_OTHER_SNIPPETS, owner, name)
            upsert(connection, SNIPPETS, {"owner": owner, "name": name, "text": text})

    def delete_snippet(self, owner: str, name: str) -> None:
        """Deletes a prompt, if there is one of this name.

        Raises:
            StoreError
        """
        self._delete_item(DELETE_SNIPPET, owner, name)

    def presets(self, owner: str) -> list[SavedPreset]:
        """Returns the owner's presets, sorted by name.

        Raises:
            StoreError
        """
        with self.reading() as connection:
            rows = connection.execute(PRESETS_OF_OWNER, {"owner": owner}).all()
        presets = [SavedPreset(name, sampling_from(sampling)) for name, sampling in rows]
        return sorted(presets, key=lambda preset: _sort_key(preset.name))

    def save_preset(self, owner: str, preset: SavedPreset) -> None:
        """Saves sampling settings under their name.

        Raises:
            RequestError: the name is empty or too long, or there are too many.
            StoreError
        """
        name = validate_name(preset.name)
        row = {"owner": owner, "name": name, "sampling": sampling_text(preset.sampling)}
        with self.transaction() as connection:
            _check_count(connection, COUNT_OTHER_PRESETS, owner, name)
            upsert(connection, PRESETS, row)

    def delete_preset(self, owner: str, name: str) -> None:
        """Deletes a preset, if there is one of this name.

        Raises:
            StoreError
        """
        self._delete_item(DELETE_PRESET, owner, name)

    def _delete_item(self, statement: Delete, owner: str, name: str) -> None:
        with self.single_write() as connection:
            connection.execute(statement, {"owner": owner, "name": name})


def validate_name(name: str) -> str:
    """Returns the name of a prompt or preset, without the white space around it.

    Raises:
        RequestError: it is empty, or too long.
    """
    name = sanitize_text(name.strip())
    if not 1 <= len(name) <= MAX_NAME:
        raise RequestError("library_name_length", max_name=MAX_NAME)
    return name


def _sort_key(name: str) -> tuple[str, str]:
    return name.casefold(), name


def _check_count(connection: Connection, count_others: Select[int], owner: str, name: str) -> None:
    """Checks, within a transaction, that there is room for an item of this name.

    In PostgreSQL, items that are saved at the same moment are not counted. The limit keeps the page
    fast, so a few more do no harm.

    Raises:
        RequestError: there are too many others.
    """
    others = connection.execute(count_others, {"owner": owner, "name": name}).scalar_one()
    if others >= MAX_ITEMS_PER_OWNER:
        raise RequestError("library_full", most=MAX_ITEMS_PER_OWNER)


def vote_row(vote: Vote) -> dict[str, Any]:
    """Returns a row for `upsert`."""
    return {**vars(vote)}
