"""The messages of chats, and how replies come into being in the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Update, bindparam, insert, or_, select, update

from model.types import RequestError
from web.chats.store.chats import CHANGED
from web.chats.store.database import Database, check_chat, check_message, hold_chat
from web.chats.store.errors import ReplyBusyError, UnknownChatError
from web.chats.store.models import ChatMessage, GenerationRun, MessageState
from web.chats.store.schema import CHATS, MESSAGES
from web.chats.store.serialization import check_length as check_length  # `talk` has it from here
from web.chats.store.serialization import runs_from, runs_text, sanitize_text

STATES = {state.value: state for state in MessageState}  # looked up faster than by the class
FIRST_PAGE, MAX_PAGE = 20, 200  # messages that are read at once, where all of a chat are
PAGE_CHARACTERS = 1_000_000  # of their texts, about
FIELDS = (
    MESSAGES.c.id, MESSAGES.c.parent, MESSAGES.c.role, MESSAGES.c.text, MESSAGES.c.state,
    MESSAGES.c.created, MESSAGES.c.error, MESSAGES.c.comparison, MESSAGES.c.runs,
    MESSAGES.c.repeats,
)  # fmt: skip
IN_ORDER = select(*FIELDS).where(MESSAGES.c.chat == bindparam("of")).order_by(MESSAGES.c.number)
NUMBERED = (
    select(MESSAGES.c.number, *FIELDS)
    .join(CHATS, CHATS.c.id == MESSAGES.c.chat)
    .where(
        MESSAGES.c.chat == bindparam("of"),
        MESSAGES.c.number > bindparam("above"),
        CHATS.c.owner == bindparam("owner"),
    )
    .order_by(MESSAGES.c.number)
    .limit(bindparam("limit"))
)
ONE = select(MESSAGES.c.chat, *FIELDS).where(MESSAGES.c.id == bindparam("message"))
WHERE = select(MESSAGES.c.chat).where(MESSAGES.c.id == bindparam("message"))
STATE = select(MESSAGES.c.state).where(MESSAGES.c.id == bindparam("message"))
CHANGED_MESSAGE = update(MESSAGES).where(MESSAGES.c.id == bindparam("message"))
STREAMS = MESSAGES.c.state == MessageState.STREAMING.value
# A server that could not be seen to live may go on all the same: what it writes is good, as long as
# nobody else has taken its reply up.
WRITTEN_BY = CHANGED_MESSAGE.where(MESSAGES.c.server == bindparam("writer"))
GOES_ON = WRITTEN_BY.where(
    MESSAGES.c.state.in_([MessageState.STREAMING.value, MessageState.INTERRUPTED.value])
).values(state=MessageState.STREAMING.value)
SAY = GOES_ON.values(text=bindparam("value"))
TELL_RUNS = GOES_ON.values(runs=bindparam("value"))
END = WRITTEN_BY.values(
    text=bindparam("said"), state=bindparam("how"), error=bindparam("why"), runs=bindparam("made"),
    server="",
)  # fmt: skip
REOPEN = CHANGED_MESSAGE.values(
    state=MessageState.STREAMING.value, error="", runs=bindparam("made"), server=bindparam("writer")
)
INTERRUPT = (
    update(MESSAGES)
    .where(STREAMS, MESSAGES.c.server.in_(bindparam("dead", expanding=True)))
    .values(state=MessageState.INTERRUPTED.value)
)
WRITERS = select(MESSAGES.c.server).where(STREAMS).distinct()
STREAMING_IN = select(MESSAGES.c.id).where(MESSAGES.c.chat == bindparam("of"), STREAMS)
RIVALS_ASIDE = (
    select(MESSAGES.c.server)
    .where(
        MESSAGES.c.chat == bindparam("of"),
        STREAMS,
        MESSAGES.c.server != bindparam("writer"),
        or_(
            MESSAGES.c.comparison.is_(None),
            MESSAGES.c.comparison != bindparam("comparison"),
        ),
    )
    .distinct()
)
NEW = insert(MESSAGES)
TOUCH = CHANGED.values(updated=bindparam("now"))
TOUCH_HEAD = TOUCH.values(head=bindparam("value"))


class Messages(Database):
    """What people see and do is scoped by owner; what a server does to its replies is not."""

    def messages(self, owner: str, chat: str) -> dict[str, ChatMessage]:
        """All of a chat's messages by id, in order of creation.

        Raises:
            UnknownChatError, StoreError
        """
        with self._reading() as connection:
            check_chat(connection, owner, chat)
            rows = connection.execute(IN_ORDER, {"of": chat}).all()
        return {row[0]: _message(row) for row in rows}

    def each_message(self, owner: str, chat: str) -> Iterator[ChatMessage]:
        """All of a chat's messages in order of creation, read page by page; none, if the owner has
        no such chat. One that is deleted meanwhile is read to its end. Pages are smaller where
        messages are long: a few of 2 MB each are in memory, not hundreds.

        Raises:
            StoreError: while they are read.
        """
        above, limit = -1, FIRST_PAGE
        while True:
            with self._reading() as connection:
                page = {"owner": owner, "of": chat, "above": above, "limit": limit}
                rows = connection.execute(NUMBERED, page).all()
            yield from (_message(fields) for _, *fields in rows)
            if len(rows) < limit:
                return
            above = rows[-1].number
            long = sum(len(row.text) for row in rows) > PAGE_CHARACTERS
            limit = max(1, limit // 4) if long else min(2 * limit, MAX_PAGE)

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
            RequestError: its text is too long, or the owner has no room left.
            ReplyBusyError: it streams, and another living server's does so there, outside of its
                comparison.
            StoreError
        """
        message = normalize_message(message)
        self._check_room(owner, size=len(message.text.encode()))
        with self._writing() as connection:
            hold_chat(connection, owner, chat)
            check_message(connection, chat, message.parent)
            if message.state is MessageState.STREAMING:
                self._refuse_second(connection, chat, message, server)
            insert_messages(connection, chat, [message], server)
            values = {"chat": chat, "now": time.time()}
            if message.comparison is None:
                connection.execute(TOUCH_HEAD, {**values, "value": message.id})
            else:
                connection.execute(TOUCH, values)

    def reopen(self, owner: str, message: ChatMessage, server: str) -> None:
        """Let a reply stream on, with the runs that it has now; its text stays as it is.

        Raises:
            UnknownChatError: it is not there.
            RequestError: it is streaming.
            ReplyBusyError: as `add`.
            StoreError
        """
        with self._writing() as connection:
            chat = connection.execute(WHERE, {"message": message.id}).scalar()
            if chat is None:
                raise UnknownChatError
            hold_chat(connection, owner, chat)
            if (
                connection.execute(STATE, {"message": message.id}).scalar()
                == MessageState.STREAMING
            ):
                raise RequestError("This reply is in the making already", "Wait for its end.")
            self._refuse_second(connection, chat, replace(message, comparison=None), server)
            made = {"made": runs_text(message.runs), "message": message.id, "writer": server}
            connection.execute(REOPEN, made)
            connection.execute(TOUCH, {"chat": chat, "now": time.time()})

    def _refuse_second(
        self, connection: Connection, chat: str, message: ChatMessage, server: str
    ) -> None:
        """Within a transaction that holds the chat. What this server makes itself, it knows."""
        others = {"of": chat, "writer": server, "comparison": message.comparison or ""}
        if any(map(self._alive, connection.execute(RIVALS_ASIDE, others).scalars().all())):
            raise ReplyBusyError

    def streaming(self, chat: str) -> list[str]:
        """The replies that stream in a chat, whoever's it is, and whoever writes them.

        Raises:
            StoreError
        """
        with self._reading() as connection:
            return list(connection.execute(STREAMING_IN, {"of": chat}).scalars())

    def save_text(self, message: str, text: str, server: str = "") -> None:
        """What a reply has come to. Nothing happens if it has ended, or another server writes it.

        Raises:
            StoreError
        """
        self._go_on(SAY, message, server, sanitize_text(text))

    def save_runs(self, message: str, runs: tuple[GenerationRun, ...], server: str = "") -> None:
        """How a reply is made. Nothing happens if it has ended, or another server writes it.

        Raises:
            StoreError
        """
        self._go_on(TELL_RUNS, message, server, runs_text(runs))

    def _go_on(self, changed: Update, message: str, server: str, value: str) -> None:
        with self._once() as connection:
            connection.execute(changed, {"message": message, "writer": server, "value": value})

    def finish(self, message: ChatMessage, server: str = "") -> None:
        """A reply as it ended: its text, state, error and runs. No matter if it was purged, or
        another server writes it by now.

        Raises:
            StoreError
        """
        ended = {
            "message": message.id, "writer": server, "said": sanitize_text(message.text),
            "how": message.state.value, "why": sanitize_text(message.error),
            "made": runs_text(message.runs),
        }  # fmt: skip
        with self._once() as connection:
            connection.execute(END, ended)

    def interrupt(self, alive: Callable[[str], bool]) -> int:
        """Mark the replies as interrupted that no living server writes; how many.

        Args:
            alive: whether the server of this id lives.

        Raises:
            StoreError
        """
        with self._reading() as connection:
            servers = connection.execute(WRITERS).scalars().all()
        dead = [server for server in servers if not alive(server)]
        if not dead:
            return 0
        with self._once() as connection:
            return connection.execute(INTERRUPT, {"dead": dead}).rowcount


def normalize_message(message: ChatMessage) -> ChatMessage:
    """The message with text that can be encoded.

    Raises:
        RequestError: its text is too long.
    """
    text = sanitize_text(message.text)
    check_length(text)
    return replace(message, text=text, error=sanitize_text(message.error))


def insert_messages(
    connection: Connection, chat: str, messages: Iterable[ChatMessage], server: str = ""
) -> None:
    """Within a transaction. The messages are `normalize_message`."""
    rows = [message_row(chat, message, server) for message in messages]
    if rows:
        connection.execute(NEW, rows)


def message_row(chat: str, message: ChatMessage, server: str = "") -> dict[str, Any]:
    """What `NEW` takes. The message is `normalize_message`."""
    return {
        "id": message.id, "parent": message.parent, "role": message.role, "text": message.text,
        "state": message.state.value, "created": message.created, "error": message.error,
        "comparison": message.comparison, "runs": runs_text(message.runs),
        "repeats": message.repeats, "chat": chat, "server": server,
    }  # fmt: skip


def _message(row: Sequence[Any]) -> ChatMessage:
    number, parent, role, text, state, created, error, comparison, runs, repeats = row
    return ChatMessage(
        number, parent, role, text, STATES[state], created, error, comparison,
        runs_from(runs), repeats,
    )  # fmt: skip
