"""What else is kept of an owner: votes, prompts to use again, and sampling under names."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Delete, Select, bindparam, delete, func, select

from model.types import RequestError
from web.chats.store.database import Database, hold_chat
from web.chats.store.errors import UnknownChatError
from web.chats.store.models import SavedPreset, Snippet, Vote
from web.chats.store.schema import CHATS, MESSAGES, PRESETS, SNIPPETS, VOTES, put
from web.chats.store.serialization import check_length, sampling_from, sampling_text, sanitize_text

MAX_NAME = 60  # characters
MAX_ITEMS_PER_OWNER = 500  # prompts of one owner, and presets
COMPARED = select(MESSAGES.c.id).where(
    MESSAGES.c.chat == bindparam("chat"), MESSAGES.c.comparison == bindparam("comparison")
)
VOTED = (
    select(VOTES.c.comparison, VOTES.c.chat, VOTES.c.winner, VOTES.c.created)
    .join(CHATS, CHATS.c.id == VOTES.c.chat)
    .where(CHATS.c.owner == bindparam("owner"), CHATS.c.deleted.is_(None))
)
VOTED_IN = VOTED.where(VOTES.c.chat == bindparam("chat"))
SNIPPET_NAMES = select(SNIPPETS.c.name).where(SNIPPETS.c.owner == bindparam("owner"))
SNIPPET_TEXT = select(SNIPPETS.c.text).where(
    SNIPPETS.c.owner == bindparam("owner"), SNIPPETS.c.name == bindparam("name")
)
SAMPLINGS = select(PRESETS.c.name, PRESETS.c.sampling).where(PRESETS.c.owner == bindparam("owner"))
OTHER_SNIPPETS, OTHER_PRESETS = (
    select(func.count()).where(
        table.c.owner == bindparam("owner"), table.c.name != bindparam("name")
    )
    for table in (SNIPPETS, PRESETS)
)
NO_SNIPPET, NO_PRESET = (
    delete(table).where(table.c.owner == bindparam("owner"), table.c.name == bindparam("name"))
    for table in (SNIPPETS, PRESETS)
)


class LibraryTable(Database):
    """Names are unique for each owner: what is saved under one replaces what was there."""

    def vote(self, owner: str, vote: Vote) -> None:
        """Keep what somebody thinks of a comparison, in place of what they thought before.

        Raises:
            UnknownChatError: the chat is not there, or the comparison or its winner not in it.
            StoreError
        """
        with self._writing() as connection:
            hold_chat(connection, owner, vote.chat)
            compared = {"chat": vote.chat, "comparison": vote.comparison}
            rivals = connection.execute(COMPARED, compared).scalars().all()
            if not rivals or (vote.winner is not None and vote.winner not in rivals):
                raise UnknownChatError
            insert_vote(connection, vote)

    def votes(self, owner: str, chat: str | None = None) -> list[Vote]:
        """The owner's votes, in one chat or all of them, oldest first.

        Raises:
            StoreError
        """
        found, values = (VOTED, {}) if chat is None else (VOTED_IN, {"chat": chat})
        with self._reading() as connection:
            votes = [Vote(*row) for row in connection.execute(found, {"owner": owner, **values})]
        return sorted(votes, key=lambda vote: (vote.created, vote.comparison))

    def snippets(self, owner: str) -> list[str]:
        """The names of the owner's prompts, sorted.

        Raises:
            StoreError
        """
        with self._reading() as connection:
            names = connection.execute(SNIPPET_NAMES, {"owner": owner}).scalars()
            return sorted(names, key=_by_name)

    def snippet(self, owner: str, name: str) -> str:
        """The text of one of the owner's prompts; "" if it is gone.

        Raises:
            StoreError
        """
        with self._reading() as connection:
            found = connection.execute(SNIPPET_TEXT, {"owner": owner, "name": name})
            return found.scalar() or ""

    def save_snippet(self, owner: str, snippet: Snippet) -> None:
        """Keep a prompt under its name.

        Raises:
            RequestError: its name is empty, it is too long, or there is no room for it.
            StoreError
        """
        name, text = checked_name(snippet.name), sanitize_text(snippet.text)
        check_length(text)
        self._check_room(owner, size=len(text.encode()))
        with self._writing() as connection:
            _check_room(connection, OTHER_SNIPPETS, owner, name)
            put(connection, SNIPPETS, {"owner": owner, "name": name, "text": text})

    def delete_snippet(self, owner: str, name: str) -> None:
        """Forget a prompt, if it is there.

        Raises:
            StoreError
        """
        self._forget(NO_SNIPPET, owner, name)

    def presets(self, owner: str) -> list[SavedPreset]:
        """The owner's sampling settings, by name.

        Raises:
            StoreError
        """
        with self._reading() as connection:
            found = connection.execute(SAMPLINGS, {"owner": owner}).all()
        presets = [SavedPreset(name, sampling_from(sampling)) for name, sampling in found]
        return sorted(presets, key=lambda preset: _by_name(preset.name))

    def save_preset(self, owner: str, preset: SavedPreset) -> None:
        """Keep sampling settings under their name.

        Raises:
            RequestError: the name is empty or too long, or there are too many.
            StoreError
        """
        name = checked_name(preset.name)
        row = {"owner": owner, "name": name, "sampling": sampling_text(preset.sampling)}
        with self._writing() as connection:
            _check_room(connection, OTHER_PRESETS, owner, name)
            put(connection, PRESETS, row)

    def delete_preset(self, owner: str, name: str) -> None:
        """Forget sampling settings, if they are there.

        Raises:
            StoreError
        """
        self._forget(NO_PRESET, owner, name)

    def _forget(self, gone: Delete, owner: str, name: str) -> None:
        with self._once() as connection:
            connection.execute(gone, {"owner": owner, "name": name})


def checked_name(name: str) -> str:
    """The name without the space around it.

    Raises:
        RequestError: nothing is left, or too much.
    """
    name = sanitize_text(name.strip())
    if not 1 <= len(name) <= MAX_NAME:
        raise RequestError(f"A name has 1 to {MAX_NAME} characters", "Choose another one.")
    return name


def _by_name(name: str) -> tuple[str, str]:
    return name.casefold(), name


def _check_room(connection: Connection, others: Select[int], owner: str, name: str) -> None:
    """Within a transaction: that there is room for one of this name. (In PostgreSQL, what is saved
    in the same moment is not counted; the limit is for the page's sake, so a few more do no harm.)

    Raises:
        RequestError: there are too many others.
    """
    if (
        connection.execute(others, {"owner": owner, "name": name}).scalar_one()
        >= MAX_ITEMS_PER_OWNER
    ):
        raise RequestError(
            f"There is no room for more than {MAX_ITEMS_PER_OWNER}", "Delete some first."
        )


def insert_vote(connection: Connection, vote: Vote) -> None:
    """Within a transaction; an earlier vote goes."""
    put(connection, VOTES, vote_row(vote))


def vote_row(vote: Vote) -> dict[str, Any]:
    """What `put` takes."""
    return {**vars(vote)}
