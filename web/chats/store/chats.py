"""The table of chats, without their messages."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sqlalchemy import (
    Connection,
    Delete,
    Select,
    Update,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from web.chats.store.database import OWNED_CHAT, Database, check_message, lock_chat
from web.chats.store.errors import UnknownChatError
from web.chats.store.models import (
    MAX_INSPECTED,
    MAX_TITLE,
    Chat,
    ChatSettings,
    collapse_whitespace,
    sanitize_text,
    validate_title,
)
from web.chats.store.schema import CHATS, MESSAGES
from web.chats.store.search import contains_text
from web.chats.store.serialization import settings_from, settings_text
from web.chats.store.usage import StorageUsage

MAX_QUERY = 200  # characters of a search
MAX_LISTED_CHATS = 500  # unless the caller asks for more
DELETE_BATCH = 50  # chats that one statement destroys: it must not take long
PAGE = 100  # chats that one statement reads, where all are read
MAX_NUMBER = 2**63 - 1
RESTORE_SECONDS = 60.0  # in which a chat can be restored, however much its owner deletes
COLUMNS = (
    CHATS.c.id, CHATS.c.title, CHATS.c.created, CHATS.c.updated, CHATS.c.head, CHATS.c.settings
)  # fmt: skip
SELECT_CHAT = OWNED_CHAT.with_only_columns(*COLUMNS)
LIST_CHATS = (
    select(*COLUMNS)
    .where(CHATS.c.owner == bindparam("owner"), CHATS.c.deleted.is_(None))
    .order_by(CHATS.c.updated.desc(), CHATS.c.number.desc())
    .limit(bindparam("limit"))
)
PAGE_OF_CHATS = (
    select(CHATS.c.number, *COLUMNS)
    .where(
        CHATS.c.owner == bindparam("owner"),
        CHATS.c.deleted.is_(None),
        CHATS.c.number < bindparam("below"),
    )
    .order_by(CHATS.c.number.desc())
    .limit(bindparam("limit"))
)
INSERT_CHATS = insert(CHATS)
UPDATE_CHAT = update(CHATS).where(CHATS.c.id == bindparam("chat"))
UPDATE_HEAD = UPDATE_CHAT.values(head=bindparam("value"))
UPDATE_TITLE = UPDATE_CHAT.values(title=bindparam("value"), named=1)
UPDATE_SETTINGS = UPDATE_CHAT.values(settings=bindparam("value"))
MARK_DELETED = UPDATE_CHAT.values(deleted=bindparam("value"))
RESTORE = UPDATE_CHAT.where(CHATS.c.owner == bindparam("of")).values(deleted=None)
# An import's chats are deleted ones of an owner that does not exist, until all are there.
IS_STAGED = CHATS.c.deleted == bindparam("since"), CHATS.c.owner == bindparam("staging_owner")
PUBLISH_STAGED = update(CHATS).where(*IS_STAGED).values(owner=bindparam("of"), deleted=None)
STAGED = select(CHATS.c.id).where(*IS_STAGED)
DELETED = select(CHATS.c.id).where(CHATS.c.deleted < bindparam("before"))
DELETED_OF_OWNER = DELETED.where(CHATS.c.owner == bindparam("of"))
INACTIVE = select(CHATS.c.id).where(
    func.substr(CHATS.c.owner, 1, bindparam("length")) == bindparam("prefix"),
    CHATS.c.updated < bindparam("before"),
)


def _destroy_some(chats: Select[str]) -> Delete:
    """Returns a statement that destroys some of the chats, and skips those that others destroy."""
    some = chats.limit(bindparam("limit")).with_for_update(skip_locked=True)
    return delete(CHATS).where(CHATS.c.id.in_(some))


DESTROY_DELETED, DESTROY_DELETED_OF_OWNER, DESTROY_INACTIVE, DESTROY_STAGED = map(
    _destroy_some, (DELETED, DELETED_OF_OWNER, INACTIVE, STAGED)
)


class Chats(Database):
    """Queries about one owner's chats. Deleted chats count as unknown until they are restored."""

    def create(self, owner: str, title: str, settings: ChatSettings) -> Chat:
        """Stores a new chat without messages, and returns it.

        Raises:
            RequestError: the owner has too many chats, or no room left.
            StoreError
        """
        now = time.time()
        chat = Chat(uuid.uuid4().hex, title, now, now, None, settings)
        self._reserve_room(owner, chats=1, size=len(settings.system))
        with self.single_write() as connection:
            return insert_chat(connection, owner, chat)

    def chat(self, owner: str, chat: str) -> Chat:
        """Returns one of the owner's chats.

        Raises:
            UnknownChatError, StoreError
        """
        with self.reading() as connection:
            row = connection.execute(SELECT_CHAT, {"chat": chat, "owner": owner}).first()
        if row is None:
            raise UnknownChatError
        return _chat_from(*row)

    def chats(self, owner: str, query: str = "", limit: int = MAX_LISTED_CHATS) -> list[Chat]:
        """Returns the owner's chats, the one that was written in last first.

        Args:
            query: what the title or a message contains, in any case.
            limit: the maximal number of chats; `each_chat` gives all.

        Raises:
            StoreError: also, if the search takes too long.
        """
        query = sanitize_text(query[:MAX_INSPECTED].strip()[:MAX_QUERY])
        values = {"owner": owner, "limit": limit}
        if query:
            return self._search(query, values)
        with self.reading() as connection:
            rows = connection.execute(LIST_CHATS, values).all()
        return [_chat_from(*row) for row in rows]

    def _search(self, query: str, values: dict[str, Any]) -> list[Chat]:
        messages = select(MESSAGES.c.id).where(
            MESSAGES.c.chat == CHATS.c.id, contains_text(MESSAGES.c.text, query)
        )
        matches = LIST_CHATS.where(or_(contains_text(CHATS.c.title, query), messages.exists()))
        with self.searching(values["owner"]) as connection:
            rows = connection.execute(matches, values).all()
        return [_chat_from(*row) for row in rows]

    def each_chat(self, owner: str) -> Iterator[Chat]:
        """Yields all of the owner's chats, the newest first, read page by page.

        No chat that was there at the beginning is missed, unless it is deleted meanwhile.

        Raises:
            StoreError: while they are read.
        """
        below = MAX_NUMBER
        while True:
            with self.reading() as connection:
                page = {"owner": owner, "below": below, "limit": PAGE}
                rows = connection.execute(PAGE_OF_CHATS, page).all()
            yield from (_chat_from(*columns) for _, *columns in rows)
            if len(rows) < PAGE:
                return
            below = rows[-1].number

    def rename(self, owner: str, chat: str, title: str) -> None:
        """Gives a chat the title that its owner wrote.

        Raises:
            RequestError: the title is empty, or too long.
            UnknownChatError, StoreError
        """
        title = sanitize_text(validate_title(title))
        self._update(owner, chat, UPDATE_TITLE, title)

    def set_settings(self, owner: str, chat: str, settings: ChatSettings) -> None:
        """Sets how the chat is answered from now on.

        Raises:
            RequestError: the owner has no room left.
            UnknownChatError, StoreError
        """
        self._reserve_room(owner, size=len(settings.system))
        self._update(owner, chat, UPDATE_SETTINGS, settings_text(settings))

    def set_head(self, owner: str, chat: str, message: str | None) -> None:
        """Sets the message that ends the branch which the chat shows.

        Raises:
            UnknownChatError: there is no such chat, or the message is not in it.
            StoreError
        """
        with self.transaction() as connection:
            lock_chat(connection, owner, chat)
            check_message(connection, chat, message)
            connection.execute(UPDATE_HEAD, {"chat": chat, "value": message})

    def delete(self, owner: str, chat: str) -> None:
        """Marks a chat as deleted. `restore` brings it back, until it is purged.

        Raises:
            UnknownChatError, StoreError
        """
        self._update(owner, chat, MARK_DELETED, time.time())
        self._usage.invalidate(owner)

    def restore(self, owner: str, chat: str) -> None:
        """Brings a deleted chat back as it was; a chat that is not deleted stays as it is.

        Raises:
            UnknownChatError, StoreError
        """
        with self.single_write() as connection:
            if not connection.execute(RESTORE, {"chat": chat, "of": owner}).rowcount:
                raise UnknownChatError
        self._usage.invalidate(owner)

    def purge(self, before: float) -> int:
        """Destroys the chats that were deleted before a time, in seconds since 1970.

        Returns:
            The number of destroyed chats.

        Raises:
            StoreError
        """
        return self._destroy(DESTROY_DELETED, {"before": before})

    def purge_owners(self, prefix: str, before: float) -> int:
        """Destroys the chats of owners whose name begins with `prefix` and who have not written in
        them since `before`.

        Returns:
            The number of destroyed chats.

        Raises:
            StoreError
        """
        values = {"prefix": prefix, "length": len(prefix), "before": before}
        return self._destroy(DESTROY_INACTIVE, values)

    def _measure_usage(self, owner: str) -> StorageUsage:
        """Destroys deleted chats, too, where they alone exceed the limits of an owner."""
        usage = super()._measure_usage(owner)
        if usage.exceeds_deleted_limit:
            values = {"of": owner, "before": time.time() - RESTORE_SECONDS}
            self._destroy(DESTROY_DELETED_OF_OWNER, values)
        return usage

    def _destroy(self, statement: Delete, values: dict[str, Any]) -> int:
        """Destroys all of the chats in batches: each batch is committed, whatever comes after."""
        values, count = {**values, "limit": DELETE_BATCH}, 0
        while True:
            with self.single_write() as connection:
                destroyed = connection.execute(statement, values).rowcount
            count += destroyed
            if destroyed < DELETE_BATCH:
                return count

    def _update(self, owner: str, chat: str, statement: Update, value: str | float) -> None:
        with self.transaction() as connection:
            lock_chat(connection, owner, chat)
            connection.execute(statement, {"chat": chat, "value": value})


def insert_chat(connection: Connection, owner: str, chat: Chat) -> Chat:
    """Inserts a chat within the caller's transaction, and returns it as stored."""
    chat = normalize_chat(chat)
    connection.execute(INSERT_CHATS, chat_row(owner, chat))
    return chat


def normalize_chat(chat: Chat) -> Chat:
    """Returns the chat with a title that can be stored."""
    return replace(chat, title=sanitize_text(collapse_whitespace(chat.title))[:MAX_TITLE])


def chat_row(owner: str, chat: Chat, deleted: float | None = None) -> dict[str, Any]:
    """Returns a row for `INSERT_CHATS`. The chat is normalized."""
    return {
        "id": chat.id, "owner": owner, "title": chat.title, "created": chat.created,
        "updated": chat.updated, "deleted": deleted, "head": chat.head,
        "settings": settings_text(chat.settings),
    }  # fmt: skip


def _chat_from(
    chat: str, title: str, created: float, updated: float, head: str | None, settings: str
) -> Chat:
    return Chat(chat, title, created, updated, head, settings_from(settings))
