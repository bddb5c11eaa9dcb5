"""Searches: what they find in SQLite, and that none takes all the time or all the connections."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection

from tests.web.chats.conftest import OpenChatStore
from web.chats.store import database, postgres, search, sqlite
from web.chats.store.chat_store import ChatStore
from web.chats.store.errors import StoreBusyError, StoreError
from web.chats.store.models import Chat, ChatMessage, ChatSettings
from web.chats.store.search import folded_holds
from web.chats.transfer.import_file import Imported, ImportedChat
from web.chats.turns import Turns

MEI = "browser:mei"
# Characters that are folded to several, to each other, or that mean something in a pattern.
LETTERS = "aAsSßẞſkK\u212aéÉfFiIﬁﬀﬃtTﬆﬅ\u0307İıẗ\u0308ςσΣΐΪ\u0301ὐ春*?[]^-%_\\ŉʼnN"


def test_search_finds_what_folding_finds(tmp_path: Path) -> None:
    """SQLite's own patterns, where they are used in place of Python's `casefold`."""
    dice = random.Random(3)  # noqa: S311
    texts = ["".join(dice.choices(LETTERS, k=dice.randrange(1, 9))) for _ in range(200)]
    with closing(ChatStore(tmp_path / "chats.db")) as store:
        for text in texts:
            store.create(MEI, text, ChatSettings())
        for _ in range(300):
            at = dice.randrange(5)
            query = dice.choice(texts)[at : at + dice.randrange(1, 4)].swapcase().strip()
            if all(letter.isascii() or letter.lower() == letter.upper() for letter in query):
                continue
            found = sorted(chat.title for chat in store.chats(MEI, query))
            assert found == sorted(t for t in texts if folded_holds(t, query.casefold())), query


def test_search_seldom_calls_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each message it did: a search stood in line for the interpreter as often."""
    calls = 0

    def counted(text: str, folded: str) -> bool:
        nonlocal calls
        calls += 1
        return folded_holds(text, folded)

    monkeypatch.setattr(sqlite, "folded_holds", counted)
    with closing(ChatStore(tmp_path / "chats.db")) as store:
        for text in ("Übermut", "春晓", "quick", "Straße", "ÜBERALL"):
            store.create(MEI, text, ChatSettings())
        assert [chat.title for chat in store.chats(MEI, "über")] == ["ÜBERALL", "Übermut"]
        assert calls == 0
        assert [chat.title for chat in store.chats(MEI, "STRAßE")] == ["Straße"]
        assert calls == 1


def test_search_that_takes_too_long(
    address: str, open_chat_store: OpenChatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with a sentence, and the connection serves the next one."""
    monkeypatch.setattr(sqlite, "SEARCH_SECONDS", 0.05)
    monkeypatch.setattr(postgres, "STATEMENT_SECONDS", 0.05)
    with closing(open_chat_store()) as store:
        store.create(MEI, "title", ChatSettings())
        endless = (
            "SELECT pg_sleep(60)" if "://" in address else
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
        )  # fmt: skip
        with pytest.raises(StoreError) as caught, store._searching(MEI) as connection:
            connection.exec_driver_sql(endless)
        assert str(caught.value) == (
            "The search took too long. Try again in a moment, or delete chats that you no longer "
            "need."
        )
        assert [chat.title for chat in store.chats(MEI, "title")] == ["title"]


def test_searches_do_not_take_all_connections(
    store: ChatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An owner has one at a time, and all of them have two."""
    monkeypatch.setattr(database, "SEARCH_SECONDS", 0.05)
    store.create("c", "title", ChatSettings())
    with store._searching("a"):
        with pytest.raises(StoreError, match="The search took too long"):
            store.chats("a", "title")
        assert store.chats("b", "title") == []
        with store._searching("b"):
            with pytest.raises(StoreError, match="The search took too long"):
                store.chats("c", "title")
            assert len(store.chats("c")) == 1
    assert len(store.chats("c", "title")) == 1


def test_turns_are_waited_for() -> None:
    turns, order = Turns(1), list[str]()

    def take(owner: str) -> None:
        with turns.of(owner, 30):
            order.append(owner)

    with turns.of("a", 30):
        threads = [threading.Thread(target=take, args=(owner,)) for owner in "ab"]
        for thread in threads:
            thread.start()
        with pytest.raises(StoreBusyError), turns.of("c", 0.02):
            pass
        assert order == []
    for thread in threads:
        thread.join()
    assert sorted(order) == ["a", "b"]
    with pytest.raises(LookupError), turns.of("a", 30):
        raise LookupError
    take("a")


def test_search_of_a_damaged_database_is_no_slow_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(ChatStore(tmp_path / "chats.db")) as store:

        @contextmanager
        def broken() -> Iterator[Connection]:
            with store.home.reading() as connection:
                connection.exec_driver_sql("SELECT nonsense")
                yield connection

        monkeypatch.setattr(store.home, "searching", broken)
        with pytest.raises(StoreError, match="The chats cannot be read: no such column"):
            store.chats(MEI, "title")


def test_search_looks_at_messages_too(store: ChatStore) -> None:
    message = ChatMessage("m", None, "user", "Ein Grüner Élan")
    chat = Chat("c", "title", 1.0, 1.0, None, ChatSettings())
    store.import_chats(MEI, Imported((ImportedChat(chat, (message,)),)))
    for query, found in (("grüner é", True), ("GRÜNER", True), ("grüne é", False), ("_", False)):
        assert bool(store.chats(MEI, query)) == found
    assert search._pattern("a_é%", search._wildcard) == "a\\__\\%"
