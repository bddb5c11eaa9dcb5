"""The data folder: its database of chats, and which servers use it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from web.chats.errors import StoreError
from web.chats.identity import SESSION
from web.chats.servers import ServerLock
from web.chats.store import ChatStore

DATABASE = "chats.sqlite3"
UNDO_SECONDS = 7 * 86_400  # after which a deleted chat is gone for good
SESSION_SECONDS = 86_400  # and one of a visitor without cookies


@dataclass(frozen=True)
class Keeping:
    """What is open while the program runs."""

    store: ChatStore
    lock: ServerLock

    def mend(self) -> None:
        """Mark what a server that died was about to say.

        Raises:
            StoreError
        """
        self.store.interrupt(self.lock.alive)

    def close(self) -> None:
        self.store.close()
        self.lock.release()


def open_store(folder: Path) -> Keeping:
    """Open the folder's database, and mark what a server that died was about to say.

    Raises:
        StoreError: the folder cannot be written, or its database cannot be used.
    """
    try:
        lock = ServerLock(folder / "servers")
    except OSError as error:
        raise StoreError(
            f"Chats cannot be kept in {folder}: {error.strerror or error}",
            "Pass another folder with --data_dir.",
        ) from error
    store = ChatStore(folder / DATABASE)
    keeping = Keeping(store, lock)
    keeping.mend()
    store.purge(time.time() - UNDO_SECONDS)
    # Without a cookie nobody finds them again.
    store.purge_owners(SESSION, time.time() - SESSION_SECONDS)
    return keeping
