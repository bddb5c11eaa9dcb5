"""Stores the chats of a file, all or none, in transactions that are too short to block others.

The chats are staged: written as deleted chats of an owner that does not exist. After the last one,
a single statement gives all of them to their owner. If the process dies before that, no user ever
sees them, and they are purged with the chats that were deleted at that time.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from web.chats.store.chats import (
    DESTROY_STAGED,
    INSERT_CHATS,
    PUBLISH_STAGED,
    Chats,
    chat_row,
    normalize_chat,
)
from web.chats.store.errors import StoreError
from web.chats.store.library import vote_row
from web.chats.store.messages import INSERT_MESSAGES, message_row, normalize_message
from web.chats.store.models import Chat, ImportedChat
from web.chats.store.schema import VOTES, upsert

STAGING_PREFIX = "import:"  # of the owner that staged chats have
MAX_ROWS = 100  # of one transaction; it takes a few milliseconds
MAX_SIZE = 200_000  # bytes of one transaction
PAUSE_SECONDS = 0.0002  # in which another thread gets the interpreter's lock
ROWS_BETWEEN_PAUSES = 10

Rows = dict[str, list[dict[str, Any]]]  # by table


class ImportWriter(Chats):
    """The part of a `ChatStore` that stores imported chats."""

    def import_chats(self, owner: str, imported: Iterable[ImportedChat]) -> list[Chat]:
        """Stores the chats of a file, all or none, and returns them; they are read meanwhile.

        Raises:
            RequestError: a text is too long, the owner has no room left, or reading the file fails.
            StoreError
        """
        staging = {
            "staging_owner": f"{STAGING_PREFIX}{uuid.uuid4().hex}",
            "since": time.time(),
        }
        chats: list[Chat] = []
        self._reserve_room(owner)
        try:
            for rows, size in _batches(imported, staging, chats):
                self._reserve_room(owner, len(rows["chats"]), size)
                self._insert_batch(rows)
            if chats:
                self._publish(owner, staging, len(chats))
        except BaseException:
            self._usage.invalidate(owner)
            with contextlib.suppress(StoreError):  # they are purged later
                self._destroy(DESTROY_STAGED, staging)
            raise
        return chats

    def _insert_batch(self, rows: Rows) -> None:
        with self.transaction() as connection:
            if rows["chats"]:
                connection.execute(INSERT_CHATS, rows["chats"])
            if rows["messages"]:
                connection.execute(INSERT_MESSAGES, rows["messages"])
            if rows["votes"]:
                upsert(connection, VOTES, rows["votes"])

    def _publish(self, owner: str, staging: dict[str, Any], count: int) -> None:
        with self.transaction() as connection:
            if connection.execute(PUBLISH_STAGED, {**staging, "of": owner}).rowcount != count:
                raise StoreError("import_lost_chats")


def _batches(
    imported: Iterable[ImportedChat], staging: dict[str, Any], chats: list[Chat]
) -> Iterator[tuple[Rows, int]]:
    """Yields the rows of one transaction each, with the bytes of their texts, and adds the chats to
    `chats` as they are stored."""
    rows, count, size = _empty_batch(), 0, 0
    for table, row in _rows(imported, staging, chats):
        rows[table].append(row)
        count += 1
        size += _text_size(row)
        if count % ROWS_BETWEEN_PAUSES == 0:
            time.sleep(PAUSE_SECONDS)  # else other threads wait 5 ms for each of their calls
        if count >= MAX_ROWS or size >= MAX_SIZE:
            yield rows, size
            rows, count, size = _empty_batch(), 0, 0
    if count:
        yield rows, size


def _rows(
    imported: Iterable[ImportedChat], staging: dict[str, Any], chats: list[Chat]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each row after the name of its table."""
    for item in imported:
        chats.append(normalize_chat(item.chat))
        yield "chats", chat_row(staging["staging_owner"], chats[-1], staging["since"])
        for message in item.messages:
            yield "messages", message_row(item.chat.id, normalize_message(message))
        for vote in item.votes:
            yield "votes", vote_row(vote)


def _empty_batch() -> Rows:
    return {"chats": [], "messages": [], "votes": []}


def _text_size(row: dict[str, Any]) -> int:
    """Returns the bytes of the columns that can be long."""
    texts = (row.get(name, "") for name in ("text", "runs", "settings"))
    return sum(len(text.encode()) for text in texts)
