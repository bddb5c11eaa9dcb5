"""The chat store: everything that is kept of chats, in a SQLite file or in PostgreSQL.

Each call is one or more short transactions. What a call has written survives a kill of the process.
All methods may be called from any thread, and by several processes at once. An owner is an opaque
name; another owner's data looks exactly like data that does not exist.
"""

from __future__ import annotations

from web.chats.store.errors import StoreError, UnknownChatError
from web.chats.store.import_writer import ImportWriter
from web.chats.store.library import LibraryTable
from web.chats.store.messages import Messages

__all__ = ["ChatStore", "StoreError", "UnknownChatError"]


class ChatStore(ImportWriter, Messages, LibraryTable):
    """All tables together, over a backend or a SQLite file at a path, which is made as needed.
    Callers `close` it at the end.

    Raises:
        StoreError: the file cannot be opened or written, is another program's, or is newer.
    """
