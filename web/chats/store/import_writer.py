"""Keeps the chats of a file, all or none, in transactions that others need not wait for.

They are written under a name that no owner has, as deleted chats. When the last of them is there, a
single statement gives them all to their owner. If the process dies before that, nothing of them is
ever seen, and they are purged with what was deleted at that time.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from web.chats.store.chats import DESTROY_HIDDEN, PUBLISH, Chats, chat_row, storable_chat
from web.chats.store.chats import NEW as NEW_CHATS
from web.chats.store.errors import StoreError
from web.chats.store.library import vote_row
from web.chats.store.messages import NEW as NEW_MESSAGES
from web.chats.store.messages import message_row, normalize_message
from web.chats.store.models import Chat
from web.chats.store.schema import VOTES, put
from web.chats.transfer.import_file import Imported, ImportedChat

HIDDEN = "import:"  # how the names of owners begin that chats have until all are there
MAX_ROWS = 100  # of one transaction; it takes a few milliseconds
MAX_SIZE = 200_000  # bytes
PAUSE_SECONDS = 0.0002  # in which another thread gets the interpreter, behind every few rows
ROWS_BETWEEN = 10

Rows = dict[str, list[dict[str, Any]]]


class Adopting(Chats):
    """Of a `ChatStore`."""

    def import_chats(self, owner: str, imported: Imported | Iterable[ImportedChat]) -> list[Chat]:
        """Keeps chats that came from a file, all or none; they are read while they are kept.

        Raises:
            RequestError: a text is too long, the owner has no room left, or what reads the file
                raises it.
            StoreError
        """
        found = imported.chats if isinstance(imported, Imported) else imported
        hidden = {"hidden": f"{HIDDEN}{uuid.uuid4().hex}", "since": time.time()}
        chats: list[Chat] = []
        self._check_room(owner)
        try:
            for rows, size in _batches(found, hidden, chats):
                self._check_room(owner, len(rows["chats"]), size)
                self._insert(rows)
            if chats:
                self._publish(owner, hidden, len(chats))
        except BaseException:
            self._usage.forget(owner)
            with contextlib.suppress(StoreError):  # they are purged one day
                self._destroy(DESTROY_HIDDEN, hidden)
            raise
        return chats

    def _insert(self, rows: Rows) -> None:
        with self._writing() as connection:
            if rows["chats"]:
                connection.execute(NEW_CHATS, rows["chats"])
            if rows["messages"]:
                connection.execute(NEW_MESSAGES, rows["messages"])
            if rows["votes"]:
                put(connection, VOTES, rows["votes"])

    def _publish(self, owner: str, hidden: dict[str, Any], count: int) -> None:
        with self._writing() as connection:
            if connection.execute(PUBLISH, {**hidden, "of": owner}).rowcount != count:
                raise StoreError(
                    "The chats cannot be saved: some of them are gone", "Try again in a moment."
                )


def _batches(
    imported: Iterable[ImportedChat], hidden: dict[str, Any], chats: list[Chat]
) -> Iterator[tuple[Rows, int]]:
    """Rows for one transaction each, with the bytes of their texts. The chats are added to `chats`,
    as they are kept."""
    rows, count, size = _no_rows(), 0, 0
    for table, row in _rows(imported, hidden, chats):
        rows[table].append(row)
        count += 1
        size += _size(row)
        if count % ROWS_BETWEEN == 0:
            time.sleep(PAUSE_SECONDS)  # else others wait 5 ms for each of their calls
        if count >= MAX_ROWS or size >= MAX_SIZE:
            yield rows, size
            rows, count, size = _no_rows(), 0, 0
    if count:
        yield rows, size


def _rows(
    imported: Iterable[ImportedChat], hidden: dict[str, Any], chats: list[Chat]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for one in imported:
        chats.append(storable_chat(one.chat))
        yield "chats", chat_row(hidden["hidden"], chats[-1], hidden["since"])
        for message in one.messages:
            yield "messages", message_row(one.chat.id, normalize_message(message))
        for vote in one.votes:
            yield "votes", vote_row(vote)


def _no_rows() -> Rows:
    return {"chats": [], "messages": [], "votes": []}


def _size(row: dict[str, Any]) -> int:
    """Bytes of what can be long."""
    texts = (row.get(name, "") for name in ("text", "runs", "settings"))
    return sum(len(text.encode()) for text in texts)
