"""Everything that is kept of chats, in a SQLite file or in PostgreSQL.

Each call is a short transaction of its own, or several: what has returned is kept even if the
process is killed. All may be used from any thread, and by several processes at once. An owner is an
opaque name; what belongs to another owner looks exactly like what does not exist.
"""

from __future__ import annotations

from web.chats.store.errors import StoreError, UnknownChatError
from web.chats.store.import_writer import Adopting
from web.chats.store.library import LibraryTable
from web.chats.store.messages import Messages

__all__ = ["ChatStore", "StoreError", "UnknownChatError"]


class ChatStore(Adopting, Messages, LibraryTable):
    """At a home, or in the file at a path; its folder is made if need be. `close` it in the end.

    Raises:
        StoreError: the file cannot be opened or written, is none of ours, or is newer.
    """
