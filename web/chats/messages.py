"""The messages of chats, and how replies come into being in the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from model.types import RequestError
from web.chats.chats import CHANGED, set_head
from web.chats.codec import clean, runs_from, runs_text
from web.chats.database import Database, check_chat, check_message, hold_chat
from web.chats.errors import UnknownChatError
from web.chats.records import ChatMessage, Run, State
from web.chats.tables import MESSAGES

MOST_TEXT = 2_000_000  # bytes of one message
FIELDS = (
    MESSAGES.c.id, MESSAGES.c.parent, MESSAGES.c.role, MESSAGES.c.text, MESSAGES.c.state,
    MESSAGES.c.created, MESSAGES.c.error, MESSAGES.c.comparison, MESSAGES.c.runs,
    MESSAGES.c.repeats,
)  # fmt: skip
IN_ORDER = select(*FIELDS).where(MESSAGES.c.chat == bindparam("of")).order_by(MESSAGES.c.number)
ONE = select(MESSAGES.c.chat, *FIELDS).where(MESSAGES.c.id == bindparam("message"))
WHERE = select(MESSAGES.c.chat).where(MESSAGES.c.id == bindparam("message"))
STATE = select(MESSAGES.c.state).where(MESSAGES.c.id == bindparam("message"))
CHANGED_MESSAGE = update(MESSAGES).where(MESSAGES.c.id == bindparam("message"))
STREAMS = MESSAGES.c.state == State.STREAMING.value
# A server that could not be seen to live may go on all the same: what it writes is good, as long as
# nobody else has taken its reply up.
WRITTEN_BY = CHANGED_MESSAGE.where(MESSAGES.c.server == bindparam("writer"))
GOES_ON = WRITTEN_BY.where(
    MESSAGES.c.state.in_([State.STREAMING.value, State.INTERRUPTED.value])
).values(state=State.STREAMING.value)


class Messages(Database):
    """What people see and do is scoped by owner; what a server does to its replies is not."""

    def messages(self, owner: str, chat: str) -> dict[str, ChatMessage]:
        """All of a chat's messages by id, in order of creation.

        Raises:
            UnknownChatError, StoreError
        """
        with self._reading() as connection:
            check_chat(connection, owner, chat)
            found = [_message(row) for row in connection.execute(IN_ORDER, {"of": chat})]
        return {message.id: message for message in found}

    def message(self, owner: str, message: str) -> tuple[str, ChatMessage]:
        """A message of any of the owner's chats, after the id of the chat.

        Raises:
            UnknownChatError, StoreError
        """
        with self._reading() as connection:
            row = connection.execute(ONE, {"message": message}).first()
            if row is None:
                raise UnknownChatError
            check_chat(connection, owner, row[0])
        return row[0], _message(row[1:])

    def add(self, owner: str, chat: str, message: ChatMessage, server: str = "") -> None:
        """Put a message into a chat. Outside of a comparison, it becomes the head.

        Args:
            server: the process that writes it while it streams.

        Raises:
            UnknownChatError: the chat is not there, or the message's parent not in it.
            RequestError: its text is too long.
            StoreError
        """
        message = storable(message)
        with self._writing() as connection:
            hold_chat(connection, owner, chat)
            check_message(connection, chat, message.parent)
            insert_messages(connection, chat, [message], server)
            _touch(connection, chat)
            if message.comparison is None:
                set_head(connection, chat, message.id)

    def reopen(self, owner: str, message: ChatMessage, server: str) -> None:
        """Let a reply stream on, with the runs that it has now; its text stays as it is.

        Raises:
            UnknownChatError: it is not there.
            RequestError: it is streaming.
            StoreError
        """
        with self._writing() as connection:
            chat = connection.execute(WHERE, {"message": message.id}).scalar()
            if chat is None:
                raise UnknownChatError
            hold_chat(connection, owner, chat)
            if connection.execute(STATE, {"message": message.id}).scalar() == State.STREAMING:
                raise RequestError("This reply is in the making already", "Wait for its end.")
            streaming = CHANGED_MESSAGE.values(
                state=State.STREAMING.value, error="", runs=runs_text(message.runs), server=server
            )
            connection.execute(streaming, {"message": message.id})
            _touch(connection, chat)

    def save_text(self, message: str, text: str, server: str = "") -> None:
        """What a reply has come to. Nothing happens if it has ended, or another server writes it.

        Raises:
            StoreError
        """
        self._go_on(message, server, text=clean(text))

    def save_runs(self, message: str, runs: tuple[Run, ...], server: str = "") -> None:
        """How a reply is made. Nothing happens if it has ended, or another server writes it.

        Raises:
            StoreError
        """
        self._go_on(message, server, runs=runs_text(runs))

    def _go_on(self, message: str, server: str, **values: str) -> None:
        with self._writing() as connection:
            connection.execute(GOES_ON.values(**values), {"message": message, "writer": server})

    def finish(self, message: ChatMessage, server: str = "") -> None:
        """A reply as it ended: its text, state, error and runs. No matter if it was purged, or
        another server writes it by now.

        Raises:
            StoreError
        """
        ended = WRITTEN_BY.values(
            text=clean(message.text), state=message.state.value, error=clean(message.error),
            runs=runs_text(message.runs), server="",
        )  # fmt: skip
        with self._writing() as connection:
            connection.execute(ended, {"message": message.id, "writer": server})

    def interrupt(self, alive: Callable[[str], bool]) -> int:
        """Mark the replies as interrupted that no living server writes; how many.

        Args:
            alive: whether the server of this id lives.

        Raises:
            StoreError
        """
        with self._reading() as connection:
            found = connection.execute(select(MESSAGES.c.server).where(STREAMS).distinct())
            servers = found.scalars().all()
        dead = [server for server in servers if not alive(server)]
        if not dead:
            return 0
        interrupted = update(MESSAGES).where(STREAMS, MESSAGES.c.server.in_(dead))
        with self._writing() as connection:
            return connection.execute(interrupted.values(state=State.INTERRUPTED.value)).rowcount


def storable(message: ChatMessage) -> ChatMessage:
    """The message with text that can be encoded.

    Raises:
        RequestError: its text is too long.
    """
    text = clean(message.text)
    check_length(text)
    return replace(message, text=text, error=clean(message.error))


def check_length(text: str) -> None:
    """That a text is not too long to be kept.

    Raises:
        RequestError: it is.
    """
    if len(text.encode()) > MOST_TEXT:
        raise RequestError(
            f"The text is longer than {MOST_TEXT // 1_000_000} MB", "Shorten it, or split it."
        )


def insert_messages(
    connection: Connection, chat: str, messages: Iterable[ChatMessage], server: str = ""
) -> None:
    """Within a transaction. The messages are `storable`."""
    rows = [
        {
            "id": m.id, "parent": m.parent, "role": m.role, "text": m.text, "state": m.state.value,
            "created": m.created, "error": m.error, "comparison": m.comparison,
            "runs": runs_text(m.runs), "repeats": m.repeats, "chat": chat, "server": server,
        }
        for m in messages
    ]  # fmt: skip
    if rows:
        connection.execute(insert(MESSAGES), rows)


def _touch(connection: Connection, chat: str) -> None:
    connection.execute(CHANGED.values(updated=time.time()), {"chat": chat})


def _message(row: Sequence[Any]) -> ChatMessage:
    number, parent, role, text, state, created, error, comparison, runs, repeats = row
    return ChatMessage(
        number, parent, role, text, State(state), created, error, comparison,
        runs_from(runs), repeats,
    )  # fmt: skip
