"""Reads a chat of this program's own exports, and gives everything in it new ids."""

from __future__ import annotations

import uuid

from web.chats.store.models import Chat, ChatMessage, ImportedChat, Vote
from web.chats.store.serialization import read_run, read_settings
from web.chats.transfer.import_models import (
    ExportedChat,
    ExportedMessage,
    ExportedVote,
    NoExportError,
)


def read_own_chat(value: object) -> ImportedChat:
    """Returns the chat, its messages with parents before children, and its votes.

    Raises:
        RequestError: something is missing, invalid or too large.
    """
    return _ChatReader().read(value)


def new_id() -> str:
    """Returns an id for a chat, a message or a comparison."""
    return uuid.uuid4().hex


class _ChatReader:
    """Reads one chat, and maps the ids in the file to new ones."""

    def __init__(self) -> None:
        self._messages: dict[str, str] = {}
        self._comparisons: dict[str, str] = {}
        self._compared: set[tuple[str, str]] = set()  # comparisons and their replies, in the file

    def read(self, value: object) -> ImportedChat:
        chat = ExportedChat.parse(value)
        messages = tuple(self._message(ExportedMessage.parse(raw)) for raw in chat.messages)
        imported = Chat(
            new_id(),
            chat.title,
            chat.created,
            chat.updated,
            self._message_id(chat.head),
            read_settings(chat.settings, strict=True),
        )
        votes = [self._vote(ExportedVote.parse(raw), imported.id) for raw in chat.votes]
        # The last vote about a comparison counts.
        latest = {vote.comparison: vote for vote in votes}
        return ImportedChat(imported, messages, tuple(latest.values()))

    def _message(self, message: ExportedMessage) -> ChatMessage:
        """The parent must come first, so there is neither a circle nor a gap."""
        if not message.id or message.id in self._messages:
            raise NoExportError("import_message_ids")
        parent = self._message_id(message.parent)
        self._messages[message.id] = new_id()
        return ChatMessage(
            self._messages[message.id],
            parent,
            message.role,
            message.text,
            message.state,
            message.created,
            message.error,
            self._comparison_id(message),
            tuple(read_run(run, strict=True) for run in message.runs),
            self._messages.get(message.repeats),
        )

    def _message_id(self, name: str | None) -> str | None:
        if name is not None and name not in self._messages:
            raise NoExportError("import_parent_missing")
        return None if name is None else self._messages[name]

    def _comparison_id(self, message: ExportedMessage) -> str | None:
        if message.comparison is None:
            return None
        self._compared.add((message.comparison, message.id))
        return self._comparisons.setdefault(message.comparison, new_id())

    def _vote(self, vote: ExportedVote, chat: str) -> Vote:
        missing = vote.winner and (vote.comparison, vote.winner) not in self._compared
        if vote.comparison not in self._comparisons or missing:
            raise NoExportError("import_vote_invalid")
        winner = self._message_id(vote.winner)
        return Vote(self._comparisons[vote.comparison], chat, winner, vote.created)
