"""The chats themselves, without their messages."""

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

from web.chats.store.database import OWN_CHAT, Database, check_message, hold_chat
from web.chats.store.errors import UnknownChatError
from web.chats.store.models import Chat, ChatSettings
from web.chats.store.schema import CHATS, MESSAGES
from web.chats.store.search import holds
from web.chats.store.serialization import sanitize_text, settings_from, settings_text
from web.chats.store.usage import StorageUsage
from web.chats.titles import MAX_LOOKED_AT, MAX_TITLE, checked_title, one_line

MAX_QUERY = 200  # characters of what is searched for
MAX_LISTED_CHATS = 500  # chats, unless more are asked for
AT_ONCE = 50  # chats that are destroyed in one go, which must not take long
PAGE = 100  # chats that are read at once, where all are
MAX_NUMBER = 2**63 - 1
UNDO_SECONDS = 60.0  # for which a chat can be restored, however much its owner deletes
FIELDS = (
    CHATS.c.id, CHATS.c.title, CHATS.c.created, CHATS.c.updated, CHATS.c.head, CHATS.c.settings
)  # fmt: skip
CHAT = OWN_CHAT.with_only_columns(*FIELDS)
LISTED = (
    select(*FIELDS)
    .where(CHATS.c.owner == bindparam("owner"), CHATS.c.deleted.is_(None))
    .order_by(CHATS.c.updated.desc(), CHATS.c.number.desc())
    .limit(bindparam("limit"))
)
NUMBERED = (
    select(CHATS.c.number, *FIELDS)
    .where(
        CHATS.c.owner == bindparam("owner"),
        CHATS.c.deleted.is_(None),
        CHATS.c.number < bindparam("below"),
    )
    .order_by(CHATS.c.number.desc())
    .limit(bindparam("limit"))
)
CHANGED = update(CHATS).where(CHATS.c.id == bindparam("chat"))
HEAD = CHANGED.values(head=bindparam("value"))
TITLE = CHANGED.values(title=bindparam("value"), named=1)
SETTINGS = CHANGED.values(settings=bindparam("value"))
PUT_AWAY = CHANGED.values(deleted=bindparam("value"))
BACK = CHANGED.where(CHATS.c.owner == bindparam("of")).values(deleted=None)
NEW = insert(CHATS)
DELETED = select(CHATS.c.id).where(CHATS.c.deleted < bindparam("before"))
LEFT = select(CHATS.c.id).where(
    func.substr(CHATS.c.owner, 1, bindparam("length")) == bindparam("prefix"),
    CHATS.c.updated < bindparam("before"),
)


DELETED_OF = DELETED.where(CHATS.c.owner == bindparam("of"))
HIDDEN = CHATS.c.deleted == bindparam("since"), CHATS.c.owner == bindparam("hidden")
PUBLISH = update(CHATS).where(*HIDDEN).values(owner=bindparam("of"), deleted=None)


def _destroying(found: Select[str]) -> Delete:
    """Some of them. Where several programs do so at once, each takes what the others do not."""
    some = found.limit(bindparam("most")).with_for_update(skip_locked=True)
    return delete(CHATS).where(CHATS.c.id.in_(some))


DESTROY_DELETED, DESTROY_DELETED_OF, DESTROY_LEFT, DESTROY_HIDDEN = map(
    _destroying, (DELETED, DELETED_OF, LEFT, select(CHATS.c.id).where(*HIDDEN))
)


class Chats(Database):
    """Each query is about one owner's chats; those that were deleted are as if they were not."""

    def create(self, owner: str, title: str, settings: ChatSettings) -> Chat:
        """A new chat without messages.

        Raises:
            RequestError: the owner has too many, or no room left.
            StoreError
        """
        now = time.time()
        chat = Chat(uuid.uuid4().hex, title, now, now, None, settings)
        self._check_room(owner, chats=1, size=len(settings.system))
        with self._once() as connection:
            return insert_chat(connection, owner, chat)

    def chat(self, owner: str, chat: str) -> Chat:
        """One of the owner's chats.

        Raises:
            UnknownChatError, StoreError
        """
        with self._reading() as connection:
            row = connection.execute(CHAT, {"chat": chat, "owner": owner}).first()
        if row is None:
            raise UnknownChatError
        return _chat(*row)

    def chats(self, owner: str, query: str = "", limit: int = MAX_LISTED_CHATS) -> list[Chat]:
        """The owner's chats, the one that was last written in first.

        Args:
            query: what the title or a message has to contain, in whatever case.
            limit: how many at the most; `each_chat` gives all.

        Raises:
            StoreError: also, if the search takes too long.
        """
        query = sanitize_text(query[:MAX_LOOKED_AT].strip()[:MAX_QUERY])
        values = {"owner": owner, "limit": limit}
        if query:
            return self._search(query, values)
        with self._reading() as connection:
            rows = connection.execute(LISTED, values).all()
        return [_chat(*row) for row in rows]

    def _search(self, query: str, values: dict[str, Any]) -> list[Chat]:
        said = select(MESSAGES.c.id).where(
            MESSAGES.c.chat == CHATS.c.id, holds(MESSAGES.c.text, query)
        )
        found = LISTED.where(or_(holds(CHATS.c.title, query), said.exists()))
        with self._searching(values["owner"]) as connection:
            rows = connection.execute(found, values).all()
        return [_chat(*row) for row in rows]

    def each_chat(self, owner: str) -> Iterator[Chat]:
        """All of the owner's chats, the newest first, read page by page: none of those that were
        there at the beginning is missed, unless it is deleted.

        Raises:
            StoreError: while they are read.
        """
        below = MAX_NUMBER
        while True:
            with self._reading() as connection:
                page = {"owner": owner, "below": below, "limit": PAGE}
                rows = connection.execute(NUMBERED, page).all()
            yield from (_chat(*fields) for _, *fields in rows)
            if len(rows) < PAGE:
                return
            below = rows[-1].number

    def rename(self, owner: str, chat: str, title: str) -> None:
        """Give a chat a title of its owner's own.

        Raises:
            RequestError: the title is empty, or too long.
            UnknownChatError, StoreError
        """
        title = sanitize_text(checked_title(title))
        self._change(owner, chat, TITLE, title)

    def set_settings(self, owner: str, chat: str, settings: ChatSettings) -> None:
        """How the chat is to be answered from now on.

        Raises:
            RequestError: the owner has no room left.
            UnknownChatError, StoreError
        """
        self._check_room(owner, size=len(settings.system))
        self._change(owner, chat, SETTINGS, settings_text(settings))

    def set_head(self, owner: str, chat: str, message: str | None) -> None:
        """Which message the branch ends with that is shown.

        Raises:
            UnknownChatError: the chat is not there, or the message not in it.
            StoreError
        """
        with self._writing() as connection:
            hold_chat(connection, owner, chat)
            check_message(connection, chat, message)
            set_head(connection, chat, message)

    def delete(self, owner: str, chat: str) -> None:
        """Put a chat away. `restore` brings it back, until it is purged.

        Raises:
            UnknownChatError, StoreError
        """
        self._change(owner, chat, PUT_AWAY, time.time())
        self._usage.forget(owner)

    def restore(self, owner: str, chat: str) -> None:
        """Bring a deleted chat back as it was; one that is there stays.

        Raises:
            UnknownChatError, StoreError
        """
        with self._once() as connection:
            if not connection.execute(BACK, {"chat": chat, "of": owner}).rowcount:
                raise UnknownChatError
        self._usage.forget(owner)

    def purge(self, before: float) -> int:
        """Destroy what was deleted before a time, in seconds since 1970; how many chats.

        Raises:
            StoreError
        """
        return self._destroy(DESTROY_DELETED, {"before": before})

    def purge_owners(self, prefix: str, before: float) -> int:
        """Destroy the chats of owners whose name begins so, if nothing was said in them since.

        Raises:
            StoreError
        """
        values = {"prefix": prefix, "length": len(prefix), "before": before}
        return self._destroy(DESTROY_LEFT, values)

    def _measured(self, owner: str) -> StorageUsage:
        """Makes room, too, where the owner has deleted more than anybody may keep."""
        usage = super()._measured(owner)
        if usage.deletes_too_much:
            self._destroy(DESTROY_DELETED_OF, {"of": owner, "before": time.time() - UNDO_SECONDS})
        return usage

    def _destroy(self, some: Delete, values: dict[str, Any]) -> int:
        """All of them, a few at a time: what is gone stays so, whatever becomes of the rest."""
        count = 0
        while True:
            with self._once() as connection:
                gone = connection.execute(some, {**values, "most": AT_ONCE}).rowcount
            count += gone
            if gone < AT_ONCE:
                return count

    def _change(self, owner: str, chat: str, changed: Update, value: str | float) -> None:
        with self._writing() as connection:
            hold_chat(connection, owner, chat)
            connection.execute(changed, {"chat": chat, "value": value})


def set_head(connection: Connection, chat: str, message: str | None) -> None:
    """Within a transaction."""
    connection.execute(HEAD, {"chat": chat, "value": message})


def insert_chat(connection: Connection, owner: str, chat: Chat) -> Chat:
    """Within a transaction; the chat as it was stored."""
    chat = storable_chat(chat)
    connection.execute(NEW, chat_row(owner, chat))
    return chat


def storable_chat(chat: Chat) -> Chat:
    """The chat with a title that can be kept."""
    return replace(chat, title=sanitize_text(one_line(chat.title))[:MAX_TITLE])


def chat_row(owner: str, chat: Chat, deleted: float | None = None) -> dict[str, Any]:
    """What `NEW` takes. The chat is `storable_chat`."""
    return {
        "id": chat.id, "owner": owner, "title": chat.title, "created": chat.created,
        "updated": chat.updated, "deleted": deleted, "head": chat.head,
        "settings": settings_text(chat.settings),
    }  # fmt: skip


def _chat(
    number: str, title: str, created: float, updated: float, head: str | None, settings: str
) -> Chat:
    return Chat(number, title, created, updated, head, settings_from(settings))
