"""Everything that is kept of chats, in a SQLite file or in PostgreSQL.

Each call is a short transaction of its own: what has returned is kept even if the process is
killed. All may be used from any thread, and by several processes at once. An owner is an opaque
name; what belongs to somebody else looks exactly like what does not exist.
"""

from __future__ import annotations

from web.chats.chats import Chats, insert_chat
from web.chats.errors import StoreError, UnknownChatError
from web.chats.imports import Imported
from web.chats.messages import Messages, insert_messages, storable
from web.chats.records import Chat
from web.chats.shelf import Shelf, insert_vote

__all__ = ["ChatStore", "StoreError", "UnknownChatError"]


class ChatStore(Chats, Messages, Shelf):
    """At a home, or in the file at a path; its folder is made if need be. `close` it in the end.

    Raises:
        StoreError: the file cannot be opened or written, is none of ours, or is newer.
    """

    def adopt(self, owner: str, imported: Imported) -> list[Chat]:
        """Keep chats that came from a file, all or none.

        Raises:
            RequestError: a text is too long.
            StoreError
        """
        checked = [(one, [storable(m) for m in one.messages]) for one in imported.chats]
        chats = []
        with self._writing() as connection:
            for one, messages in checked:
                chats.append(insert_chat(connection, owner, one.chat))
                insert_messages(connection, one.chat.id, messages)
                for vote in one.votes:
                    insert_vote(connection, vote)
        return chats
