"""Where chats are kept, and which servers keep theirs there: a data folder, or PostgreSQL."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from web.chats.cluster.file_lock import ServerLock
from web.chats.cluster.notifications import NullBus, ReplicaBus
from web.chats.identity import SESSION
from web.chats.store.chat_store import ChatStore
from web.chats.store.errors import StoreError

DATABASE = "chats.sqlite3"
UNDO_SECONDS = 7 * 86_400  # after which a deleted chat is gone for good
SESSION_SECONDS = 86_400  # and one of a visitor without cookies

log = logging.getLogger(__name__)


class Lock(Protocol):
    """What a server is known by while it lives."""

    id: str

    def alive(self, server: str) -> bool: ...

    def release(self) -> None: ...


@dataclass(frozen=True)
class OpenStore:
    """What is open while the program runs."""

    store: ChatStore
    lock: Lock
    others: ReplicaBus = field(default_factory=NullBus)

    def mark_interrupted_replies(self) -> None:
        """Mark what a server that died was about to say.

        Raises:
            StoreError
        """
        self.store.interrupt(self.lock.alive)

    def close(self) -> None:
        self.store.close()
        self.lock.release()


def open_store(folder: Path, database_url: str | None = None) -> OpenStore:
    """Open the database at the address, or else the folder's, and mark what a server that died was
    about to say.

    Raises:
        StoreError: the folder cannot be written, or the database cannot be used.
    """
    keeping = _in_postgres(database_url) if database_url else _in_folder(folder)
    try:
        keeping.mark_interrupted_replies()
        _clear_away(keeping.store)
    except BaseException:
        keeping.close()
        raise
    return keeping


def _clear_away(store: ChatStore) -> None:
    """What nobody is to find again. If that fails, it can wait for the next start."""
    try:
        store.purge(time.time() - UNDO_SECONDS)
        # Without a cookie nobody finds them again.
        store.purge_owners(SESSION, time.time() - SESSION_SECONDS)
    except StoreError as error:
        log.warning("Old chats are not cleared away. %s", error)


def _in_folder(folder: Path) -> OpenStore:
    try:
        lock = ServerLock(folder / "servers")
    except OSError as error:
        raise StoreError(
            f"Chats cannot be kept in {folder}: {error.strerror or error}",
            "Pass another folder with --data_dir.",
        ) from error
    try:
        return OpenStore(ChatStore(folder / DATABASE, lock.alive), lock)
    except BaseException:
        lock.release()
        raise


def _in_postgres(url: str) -> OpenStore:
    from web.chats.cluster.postgres_replica import Replica
    from web.chats.store.postgres import Postgres  # whoever has no PostgreSQL need not wait for it

    postgres = Postgres(url)
    try:
        replica = Replica(postgres)
        return OpenStore(ChatStore(postgres, replica.alive), replica, replica)
    except BaseException:
        postgres.close()
        raise
