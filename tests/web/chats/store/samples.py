"""Sample chats and messages, and every call of the store that names an owner."""

from __future__ import annotations

from collections.abc import Callable

from model.sampling import Sampling
from model.types import FinishReason
from web.chats.store.chat_store import ChatStore
from web.chats.store.models import (
    Chat,
    ChatMessage,
    ChatSettings,
    GenerationRun,
    MessageState,
    Vote,
)

MEI, OTHER = "browser:mei", "account:other"
SETTINGS = ChatSettings("古文", 0.5, "alpaca", "你是诗人。", Sampling(seed=4, stop=("。",)))
RUN = GenerationRun(SETTINGS, "base", "int4", reason=FinishReason.STOP, completion_tokens=9)


def question(name: str, parent: str | None = None, text: str = "?") -> ChatMessage:
    return ChatMessage(name, parent, "user", text, created=12.5)


def streaming_reply(name: str, parent: str, comparison: str | None = None) -> ChatMessage:
    return ChatMessage(
        name, parent, "assistant", "", MessageState.STREAMING, 13.5, comparison=comparison
    )


def begin_chat(store: ChatStore, owner: str = MEI, title: str = "A chat") -> Chat:
    """Stores a chat with a question, and returns it."""
    chat = store.create(owner, title, SETTINGS)
    store.add(owner, chat.id, question(f"q-{chat.id}"))
    return store.chat(owner, chat.id)


def titles(store: ChatStore, query: str = "", owner: str = MEI) -> list[str]:
    return [chat.title for chat in store.chats(owner, query)]


# By name, with the ids of a chat and a message.
OWNER_CALLS: dict[str, Callable[[ChatStore, str, str, str], object]] = {
    "chat": lambda s, owner, chat, _: s.chat(owner, chat),
    "rename": lambda s, owner, chat, _: s.rename(owner, chat, "mine"),
    "delete": lambda s, owner, chat, _: s.delete(owner, chat),
    "restore": lambda s, owner, chat, _: s.restore(owner, chat),
    "set_head": lambda s, owner, chat, _: s.set_head(owner, chat, None),
    "set_settings": lambda s, owner, chat, _: s.set_settings(owner, chat, ChatSettings()),
    "messages": lambda s, owner, chat, _: s.messages(owner, chat),
    "message": lambda s, owner, _, message: s.message(owner, message),
    "add": lambda s, owner, chat, message: s.add(owner, chat, question("new", message)),
    "reopen": lambda s, owner, _, message: s.reopen(owner, question(message), "server"),
    "vote": lambda s, owner, chat, message: s.vote(owner, Vote("c", chat, None, 1.0)),
}
