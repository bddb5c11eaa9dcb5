"""Opens the chat store (SQLite or PostgreSQL), with the lock that shows this server as alive."""

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
PURGE_SECONDS = 7 * 86_400  # after which a deleted chat is destroyed
SESSION_SECONDS = 86_400  # after which a chat of a visitor without cookies is destroyed

log = logging.getLogger(__name__)


class LivenessLock(Protocol):
    """A lock that a server holds while it lives, under its id."""

    id: str

    def alive(self, server: str) -> bool:
        """Whether the server with the id `server` is alive."""

    def release(self) -> None: ...


@dataclass(frozen=True)
class OpenStore:
    """The store, this server's lock, and the bus to other replicas, until `close`."""

    store: ChatStore
    lock: LivenessLock
    replica_bus: ReplicaBus = field(default_factory=NullBus)

    def mark_interrupted_replies(self) -> None:
        """Marks streaming replies of servers that have died as interrupted.

        Raises:
            StoreError
        """
        self.store.mark_interrupted(self.lock.alive)

    def close(self) -> None:
        """Closes the store, and releases the lock."""
        self.store.close()
        self.lock.release()


def open_store(folder: Path, database_url: str | None = None) -> OpenStore:
    """Opens the database at the address, or else the SQLite file in the folder; then marks
    interrupted replies, and destroys old chats.

    Raises:
        StoreError: the folder cannot be written, or the database cannot be used.
    """
    store_handle = _open_postgres(database_url) if database_url else _open_folder(folder)
    try:
        store_handle.mark_interrupted_replies()
        _purge(store_handle.store)
    except BaseException:
        store_handle.close()
        raise
    return store_handle


def _purge(store: ChatStore) -> None:
    """Destroys old chats. If that fails, the next start does it."""
    try:
        store.purge(time.time() - PURGE_SECONDS)
        # Without a cookie, their owners cannot find them again.
        store.purge_owners(SESSION, time.time() - SESSION_SECONDS)
    except StoreError as error:
        log.warning("Old chats could not be deleted. %s", error)


def _open_folder(folder: Path) -> OpenStore:
    try:
        lock = ServerLock(folder / "servers")
    except OSError as error:
        raise StoreError(
            "chats_folder_unwritable",
            folder=folder,
            reason=error.strerror or error,
        ) from error
    try:
        return OpenStore(ChatStore(folder / DATABASE, lock.alive), lock)
    except BaseException:
        lock.release()
        raise


def _open_postgres(url: str) -> OpenStore:
    # Imported here, as a start without PostgreSQL need not load its driver.
    from web.chats.cluster.postgres_replica import Replica
    from web.chats.store.postgres import Postgres

    postgres = Postgres(url)
    try:
        replica = Replica(postgres)
        return OpenStore(ChatStore(postgres, replica.alive), replica, replica)
    except BaseException:
        postgres.close()
        raise
