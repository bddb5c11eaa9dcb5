"""Chats in the store: lists, titles, deleting, purging and searching, over both databases."""

from __future__ import annotations

import time

import pytest

from model.errors import RequestError
from tests.web.chats.conftest import OpenChatStore
from tests.web.chats.store.samples import (
    MEI,
    OTHER,
    OWNER_CALLS,
    SETTINGS,
    begin_chat,
    question,
    streaming_reply,
    titles,
)
from web.chats.store import chats
from web.chats.store.chat_store import ChatStore, UnknownChatError
from web.chats.store.models import Chat, ChatSettings, ImportedChat, Vote


def test_chats_are_listed_by_their_last_message(store: ChatStore) -> None:
    first, second, third = (begin_chat(store, title=title) for title in ("1", "2", "3"))
    assert titles(store) == ["3", "2", "1"]
    store.add(MEI, first.id, question("more", first.head))
    assert titles(store) == ["1", "3", "2"]
    store.chat(MEI, second.id)
    store.messages(MEI, second.id)
    store.rename(MEI, second.id, "two")
    store.set_settings(MEI, second.id, ChatSettings())
    store.set_head(MEI, third.id, None)
    assert titles(store) == ["1", "3", "two"]
    assert [chat.title for chat in store.chats(MEI, limit=2)] == ["1", "3"]


def test_title_is_validated_and_shortened(store: ChatStore) -> None:
    chat = begin_chat(store)
    store.rename(MEI, chat.id, "  古诗\n 词  ")
    assert titles(store) == ["古诗 词"]
    store.rename(MEI, chat.id, "x" * 200)
    for wrong in ("", " \n", "x" * 201):
        with pytest.raises(RequestError):
            store.rename(MEI, chat.id, wrong)
    assert store.create(MEI, "x" * 300, SETTINGS).title == "x" * 200


def test_renamed_chat_is_marked_as_named(store: ChatStore) -> None:
    begin_chat(store)
    chat = begin_chat(store)
    store.rename(MEI, chat.id, "mine")
    with store.reading() as connection:
        rows = connection.exec_driver_sql("SELECT id FROM chats WHERE named = 1").all()
    assert rows == [(chat.id,)]


def test_deleted_chat_can_be_restored(store: ChatStore) -> None:
    chat = begin_chat(store)
    store.add(MEI, chat.id, streaming_reply("a", chat.head or "", "c"))
    store.vote(MEI, Vote("c", chat.id, "a", 1.0))
    before = (store.chat(MEI, chat.id), store.messages(MEI, chat.id), store.votes(MEI))
    store.delete(MEI, chat.id)
    assert store.chats(MEI) == store.chats(MEI, "chat") == []
    assert store.votes(MEI) == []
    for call in set(OWNER_CALLS) - {"restore"}:
        with pytest.raises(UnknownChatError):
            OWNER_CALLS[call](store, MEI, chat.id, "a")
    store.restore(MEI, chat.id)
    assert (store.chat(MEI, chat.id), store.messages(MEI, chat.id), store.votes(MEI)) == before
    store.restore(MEI, chat.id)
    assert store.chats(MEI) == [before[0]]


def test_purge_destroys_deleted_chats(store: ChatStore) -> None:
    kept, gone = begin_chat(store), begin_chat(store, title="gone")
    store.add(MEI, gone.id, question("secret", text="密语" * 10_000))
    store.delete(MEI, gone.id)
    assert store.purge(time.time() - 60) == 0
    store.restore(MEI, gone.id)
    store.delete(MEI, gone.id)
    assert store.purge(time.time() + 1) == 1
    with pytest.raises(UnknownChatError):
        store.restore(MEI, gone.id)
    assert store.chats(MEI) == [kept]
    with store.reading() as connection:
        assert connection.exec_driver_sql("SELECT id FROM messages").all() == [(kept.head,)]


def test_purge_works_in_batches(store: ChatStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once may exceed the time of a statement."""
    monkeypatch.setattr(chats, "DELETE_BATCH", 2)
    for count in (5, 4, 0):
        for _ in range(count):
            store.delete(MEI, store.create(MEI, "title", SETTINGS).id)
        assert store.purge(time.time() + 1) == count
    for number in range(5):
        store.create(f"session:{number}", "title", SETTINGS)
    assert store.purge_owners("session:", time.time() + 10) == 5


def test_purge_owners_destroys_old_chats_of_visitors_without_cookies(store: ChatStore) -> None:
    for owner in ("session:abc", "session:new", "browser:session:"):
        store.create(owner, "title", ChatSettings())
    assert store.purge_owners("session:", time.time() + 10) == 2
    assert store.purge_owners("session:", time.time() + 10) == 0
    store.create("session:abc", "title", ChatSettings())
    assert store.purge_owners("session:", time.time() - 10) == 0
    assert len(store.chats("browser:session:")) == 1


def test_head_is_the_last_message_outside_of_comparisons(store: ChatStore) -> None:
    chat = begin_chat(store)
    first = chat.head or ""
    assert store.chat(MEI, chat.id).head == f"q-{chat.id}"
    store.add(MEI, chat.id, streaming_reply("a", first, "c"))
    assert store.chat(MEI, chat.id).head == first
    store.add(MEI, chat.id, streaming_reply("b", first))
    assert store.chat(MEI, chat.id).head == "b"
    store.set_head(MEI, chat.id, "a")
    assert store.chat(MEI, chat.id).head == "a"
    for of_another_chat in (begin_chat(store).head, "none"):
        with pytest.raises(UnknownChatError):
            store.set_head(MEI, chat.id, of_another_chat)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", True),
        ("   ", True),
        ("春晓", True),
        (" 春晓 ", True),
        ("晓春", False),
        ("HELLO", True),
        ("grüße", True),
        ("GRÜSSE", True),
        ("привет", True),
        ("🦙", True),
        ("🦊", False),
        ("100%", True),
        ("1%0", False),
        ("snake_case", True),
        ("snakeXcase", False),
        ("a\\b", True),
        ("%", True),
        ("hello 春", True),
        ("\ud83d", False),
    ],
)
def test_search_covers_messages_and_titles_of_the_owner(
    store: ChatStore, query: str, found: bool
) -> None:
    text = "Hello 春晓 GRÜẞE Привет 🦙 100% snake_case a\\b"
    chat = store.create(MEI, "in a message", SETTINGS)
    store.add(MEI, chat.id, question("q"))
    store.add(MEI, chat.id, question("q2", "q", text))
    store.create(MEI, text, SETTINGS)
    store.create(OTHER, text, SETTINGS)
    assert titles(store, query) == ([text, "in a message"] if found else [])


def test_search_takes_wildcards_literally(store: ChatStore) -> None:
    store.create(MEI, "plain", SETTINGS)
    for query in ("%", "_", "\\", "p%n", "pla_n"):
        assert titles(store, query) == []


@pytest.mark.parametrize("query", ["x" * 100_000, "é" * 100_000, "%" * 100_000])
def test_search_for_a_huge_text_finds_nothing(store: ChatStore, query: str) -> None:
    store.create(MEI, "short", SETTINGS)
    assert titles(store, query) == []


@pytest.mark.slow
@pytest.mark.parametrize("query", ["找不到", "zebra", "nicht übrig"])
def test_search_in_many_chats_is_not_ended_by_the_store(
    open_chat_store: OpenChatStore, query: str
) -> None:
    """In 500 chats of 50 messages; the store ends a search that takes too long."""
    store = open_chat_store()
    text = "The quick brown fox 敏捷的棕色狐狸 " * 15
    store.import_chats(
        MEI,
        (
            ImportedChat(
                Chat(f"c{chat}", f"Title {chat}", 1.0, 1.0, None, SETTINGS),
                tuple(question(f"{chat}-{number}", None, text) for number in range(50)),
            )
            for chat in range(500)
        ),
    )
    assert store.chats(MEI, query) == []
