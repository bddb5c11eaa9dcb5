"""The table of messages, and how the store saves replies that are in the making."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Update, bindparam, insert, or_, select, update

from model.errors import RequestError
from web.chats.store.chats import UPDATE_CHAT
from web.chats.store.database import Database, check_chat, check_message, lock_chat
from web.chats.store.errors import ReplyBusyError, UnknownChatError
from web.chats.store.models import (
    ChatMessage,
    GenerationRun,
    MessageState,
    check_length,
    sanitize_text,
)
from web.chats.store.schema import CHATS, MESSAGES
from web.chats.store.serialization import runs_from, runs_text

STATES = {state.value: state for state in MessageState}  # a faster look-up than by the class
FIRST_PAGE, MAX_PAGE = 20, 200  # messages that one statement reads, where all of a chat are read
PAGE_CHARACTERS = 1_000_000  # of their texts, about
STREAMING, INTERRUPTED = MessageState.STREAMING.value, MessageState.INTERRUPTED.value
COLUMNS = (
    MESSAGES.c.id, MESSAGES.c.parent, MESSAGES.c.role, MESSAGES.c.text, MESSAGES.c.state,
    MESSAGES.c.created, MESSAGES.c.error, MESSAGES.c.comparison, MESSAGES.c.runs,
    MESSAGES.c.repeats,
)  # fmt: skip
MESSAGES_OF_CHAT = (
    select(*COLUMNS).where(MESSAGES.c.chat == bindparam("of")).order_by(MESSAGES.c.number)
)
PAGE_OF_MESSAGES = (
    select(MESSAGES.c.number, *COLUMNS)
    .join(CHATS, CHATS.c.id == MESSAGES.c.chat)
    .where(
        MESSAGES.c.chat == bindparam("of"),
        MESSAGES.c.number > bindparam("above"),
        CHATS.c.owner == bindparam("owner"),
    )
    .order_by(MESSAGES.c.number)
    .limit(bindparam("limit"))
)
IS_MESSAGE = MESSAGES.c.id == bindparam("message")
IS_STREAMING = MESSAGES.c.state == STREAMING
SELECT_MESSAGE = select(MESSAGES.c.chat, *COLUMNS).where(IS_MESSAGE)
SELECT_CHAT_ID = select(MESSAGES.c.chat).where(IS_MESSAGE)
SELECT_STATE = select(MESSAGES.c.state).where(IS_MESSAGE)
INSERT_MESSAGES = insert(MESSAGES)
UPDATE_MESSAGE = update(MESSAGES).where(IS_MESSAGE)
# A server that was taken for dead may go on all the same. What it writes is valid, unless another
# server has continued its reply meanwhile.
UPDATE_BY_WRITER = UPDATE_MESSAGE.where(MESSAGES.c.server == bindparam("writer"))
UPDATE_STREAMING = UPDATE_BY_WRITER.where(MESSAGES.c.state.in_([STREAMING, INTERRUPTED])).values(
    state=STREAMING
)
SAVE_TEXT = UPDATE_STREAMING.values(text=bindparam("value"))
SAVE_RUNS = UPDATE_STREAMING.values(runs=bindparam("value"))
FINISH = UPDATE_BY_WRITER.values(
    text=bindparam("new_text"), state=bindparam("new_state"), error=bindparam("new_error"),
    runs=bindparam("new_runs"), server="",
)  # fmt: skip
REOPEN = UPDATE_MESSAGE.values(
    state=STREAMING, error="", runs=bindparam("new_runs"), server=bindparam("writer")
)
MARK_INTERRUPTED = (
    update(MESSAGES)
    .where(IS_STREAMING, MESSAGES.c.server.in_(bindparam("dead", expanding=True)))
    .values(state=INTERRUPTED)
)
WRITERS = select(MESSAGES.c.server).where(IS_STREAMING).distinct()
STREAMING_IN_CHAT = select(MESSAGES.c.id).where(MESSAGES.c.chat == bindparam("of"), IS_STREAMING)
OTHER_WRITERS_IN_CHAT = (
    select(MESSAGES.c.server)
    .where(
        MESSAGES.c.chat == bindparam("of"),
        IS_STREAMING,
        MESSAGES.c.server != bindparam("writer"),
        or_(
            MESSAGES.c.comparison.is_(None),
            MESSAGES.c.comparison != bindparam("comparison"),
        ),
    )
    .distinct()
)
TOUCH_CHAT = UPDATE_CHAT.values(updated=bindparam("now"))
TOUCH_CHAT_AND_HEAD = TOUCH_CHAT.values(head=bindparam("value"))


class Messages(Database):
    """Messages of chats. Calls for users name the owner; calls of a server about the replies that
    it writes do not."""

    def messages(self, owner: str, chat: str) -> dict[str, ChatMessage]:
        """Returns all of a chat's messages by id, in order of creation.

        Raises:
            UnknownChatError, StoreError
        """
        with self.reading() as connection:
            check_chat(connection, owner, chat)
            rows = connection.execute(MESSAGES_OF_CHAT, {"of": chat}).all()
        return {row[0]: _message_from(row) for row in rows}

    def each_message(self, owner: str, chat: str) -> Iterator[ChatMessage]:
        """Yields all of a chat's messages in order of creation, read page by page; none, if the
        owner has no such chat.

        A chat that is deleted meanwhile is read to its end. Pages are smaller where messages are
        long: a few of 2 MB each are in memory, not hundreds.

        Raises:
            StoreError: while they are read.
        """
        above, limit = -1, FIRST_PAGE
        while True:
            with self.reading() as connection:
                page = {"owner": owner, "of": chat, "above": above, "limit": limit}
                rows = connection.execute(PAGE_OF_MESSAGES, page).all()
            yield from (_message_from(columns) for _, *columns in rows)
            if len(rows) < limit:
                return
            above = rows[-1].number
            is_long = sum(len(row.text) for row in rows) > PAGE_CHARACTERS
            limit = max(1, limit // 4) if is_long else min(2 * limit, MAX_PAGE)

    def message(self, owner: str, message: str) -> tuple[str, ChatMessage]:
        """Returns the id of the chat and a message, of any of the owner's chats.

        Raises:
            UnknownChatError, StoreError
        """
        with self.reading() as connection:
            row = connection.execute(SELECT_MESSAGE, {"message": message}).first()
            if row is None:
                raise UnknownChatError
            check_chat(connection, owner, row[0])
        return row[0], _message_from(row[1:])

    def add(self, owner: str, chat: str, message: ChatMessage, server: str = "") -> None:
        """Adds a message to a chat. Outside of a comparison, it becomes the head.

        Args:
            server: the id of the server that writes it while it streams.

        Raises:
            UnknownChatError: there is no such chat, or the message's parent is not in it.
            RequestError: its text is too long, or the owner has no room left.
            ReplyBusyError: it streams, and so does a reply of another living server in this chat,
                outside of its comparison.
            StoreError
        """
        message = normalize_message(message)
        self._reserve_room(owner, size=len(message.text.encode()))
        with self.transaction() as connection:
            lock_chat(connection, owner, chat)
            check_message(connection, chat, message.parent)
            if message.state is MessageState.STREAMING:
                self._check_not_busy(connection, chat, message, server)
            connection.execute(INSERT_MESSAGES, [message_row(chat, message, server)])
            values = {"chat": chat, "now": time.time()}
            if message.comparison is None:
                connection.execute(TOUCH_CHAT_AND_HEAD, {**values, "value": message.id})
            else:
                connection.execute(TOUCH_CHAT, values)

    def reopen(self, owner: str, message: ChatMessage, server: str) -> None:
        """Lets a reply stream again, with the message's runs; its stored text stays as it is.

        Raises:
            UnknownChatError: there is no such reply.
            RequestError: it is streaming.
            ReplyBusyError: as `add`.
            StoreError
        """
        with self.transaction() as connection:
            chat = connection.execute(SELECT_CHAT_ID, {"message": message.id}).scalar()
            if chat is None:
                raise UnknownChatError
            lock_chat(connection, owner, chat)
            if connection.execute(SELECT_STATE, {"message": message.id}).scalar() == STREAMING:
                raise RequestError("reply_already_running")
            self._check_not_busy(connection, chat, replace(message, comparison=None), server)
            values = {
                "new_runs": runs_text(message.runs),
                "message": message.id,
                "writer": server,
            }
            connection.execute(REOPEN, values)
            connection.execute(TOUCH_CHAT, {"chat": chat, "now": time.time()})

    def _check_not_busy(
        self, connection: Connection, chat: str, message: ChatMessage, server: str
    ) -> None:
        """Runs within a transaction that has locked the chat. A server checks its own replies
        itself.

        Raises:
            ReplyBusyError
        """
        values = {"of": chat, "writer": server, "comparison": message.comparison or ""}
        writers = connection.execute(OTHER_WRITERS_IN_CHAT, values).scalars().all()
        if any(map(self._alive, writers)):
            raise ReplyBusyError

    def streaming(self, chat: str) -> list[str]:
        """Returns the ids of the replies that stream in a chat, of any owner and any server.

        Raises:
            StoreError
        """
        with self.reading() as connection:
            return list(connection.execute(STREAMING_IN_CHAT, {"of": chat}).scalars())

    def save_text(self, message: str, text: str, server: str = "") -> None:
        """Saves the text of a reply so far. Does nothing if the reply has ended, or another server
        writes it.

        Raises:
            StoreError
        """
        self._update_streaming(SAVE_TEXT, message, server, sanitize_text(text))

    def save_runs(self, message: str, runs: tuple[GenerationRun, ...], server: str = "") -> None:
        """Saves the runs of a reply so far. Does nothing if the reply has ended, or another server
        writes it.

        Raises:
            StoreError
        """
        self._update_streaming(SAVE_RUNS, message, server, runs_text(runs))

    def _update_streaming(self, statement: Update, message: str, server: str, value: str) -> None:
        with self.single_write() as connection:
            connection.execute(statement, {"message": message, "writer": server, "value": value})

    def finish(self, message: ChatMessage, server: str = "") -> None:
        """Saves a reply that has ended: its text, state, error and runs. Does nothing if it was
        purged, or another server writes it.

        Raises:
            StoreError
        """
        values = {
            "message": message.id, "writer": server, "new_text": sanitize_text(message.text),
            "new_state": message.state.value, "new_error": sanitize_text(message.error),
            "new_runs": runs_text(message.runs),
        }  # fmt: skip
        with self.single_write() as connection:
            connection.execute(FINISH, values)

    def mark_interrupted(self, alive: Callable[[str], bool]) -> int:
        """Marks streaming replies as interrupted where no living server writes them.

        Args:
            alive: whether the server with this id is alive.

        Returns:
            The number of marked replies.

        Raises:
            StoreError
        """
        with self.reading() as connection:
            servers = connection.execute(WRITERS).scalars().all()
        dead = [server for server in servers if not alive(server)]
        if not dead:
            return 0
        with self.single_write() as connection:
            return connection.execute(MARK_INTERRUPTED, {"dead": dead}).rowcount


def normalize_message(message: ChatMessage) -> ChatMessage:
    """Returns the message with texts that can be encoded.

    Raises:
        RequestError: its text is too long.
    """
    text = sanitize_text(message.text)
    check_length(text)
    return replace(message, text=text, error=sanitize_text(message.error))


def message_row(chat: str, message: ChatMessage, server: str = "") -> dict[str, Any]:
    """Returns a row for `INSERT_MESSAGES`. The message is normalized."""
    return {
        "id": message.id, "parent": message.parent, "role": message.role, "text": message.text,
        "state": message.state.value, "created": message.created, "error": message.error,
        "comparison": message.comparison, "runs": runs_text(message.runs),
        "repeats": message.repeats, "chat": chat, "server": server,
    }  # fmt: skip


def _message_from(row: Sequence[Any]) -> ChatMessage:
    message, parent, role, text, state, created, error, comparison, runs, repeats = row
    return ChatMessage(
        message, parent, role, text, STATES[state], created, error, comparison,
        runs_from(runs), repeats,
    )  # fmt: skip
