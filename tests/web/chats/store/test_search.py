"""Searches: what they find in SQLite, and how the store bounds their time and number."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection

from tests.web.chats.conftest import OpenChatStore
from tests.web.chats.store.samples import MEI, titles
from web.chats.store import database, postgres, sqlite
from web.chats.store.chat_store import ChatStore
from web.chats.store.errors import StoreError
from web.chats.store.models import Chat, ChatMessage, ChatSettings, ImportedChat
from web.chats.store.search import contains_folded, like_pattern

# Characters that fold to several, or to each other, or that are special in a pattern.
LETTERS = "aAsSßẞſkK\u212aéÉfFiIﬁﬀﬃtTﬆﬅ\u0307İıẗ\u0308ςσΣΐΪ\u0301ὐ春*?[]^-%_\\ŉʼnN"


def test_search_finds_what_folding_finds(tmp_path: Path) -> None:
    """SQLite's own patterns agree with Python's `casefold`."""
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
            expected = sorted(t for t in texts if contains_folded(t, query.casefold()))
            assert sorted(titles(store, query)) == expected, query


def test_search_calls_python_only_for_expanding_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It did for each message, and waited for the interpreter's lock as often."""
    calls = 0

    def count_calls(text: str, folded: str) -> bool:
        nonlocal calls
        calls += 1
        return contains_folded(text, folded)

    monkeypatch.setattr(sqlite, "contains_folded", count_calls)
    with closing(ChatStore(tmp_path / "chats.db")) as store:
        for text in ("Übermut", "春晓", "quick", "Straße", "ÜBERALL"):
            store.create(MEI, text, ChatSettings())
        assert titles(store, "über") == ["ÜBERALL", "Übermut"]
        assert calls == 0
        assert titles(store, "STRAßE") == ["Straße"]
        assert calls == 1


def test_search_that_takes_too_long_is_ended(
    address: str, open_chat_store: OpenChatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a sentence; the connection serves the next search."""
    monkeypatch.setattr(sqlite, "SEARCH_SECONDS", 0.05)
    monkeypatch.setattr(postgres, "STATEMENT_SECONDS", 0.05)
    with closing(open_chat_store()) as store:
        store.create(MEI, "title", ChatSettings())
        endless = (
            "SELECT pg_sleep(60)" if "://" in address else
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
        )  # fmt: skip
        with pytest.raises(StoreError) as caught, store.searching(MEI) as connection:
            connection.exec_driver_sql(endless)
        assert str(caught.value) == (
            "The search took too long. Try again in a moment, or delete chats that you no longer "
            "need."
        )
        assert titles(store, "title") == ["title"]


def test_searches_leave_connections_for_others(
    store: ChatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An owner has one search at a time, and all owners together two."""
    monkeypatch.setattr(database, "SEARCH_WAIT_SECONDS", 0.05)
    store.create("c", "title", ChatSettings())
    with store.searching("a"):
        with pytest.raises(StoreError, match="The search took too long"):
            store.chats("a", "title")
        assert store.chats("b", "title") == []
        with store.searching("b"):
            with pytest.raises(StoreError, match="The search took too long"):
                store.chats("c", "title")
            assert len(store.chats("c")) == 1
    assert len(store.chats("c", "title")) == 1


def test_error_of_a_damaged_database_is_not_taken_for_a_slow_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(ChatStore(tmp_path / "chats.db")) as store:

        @contextmanager
        def broken() -> Iterator[Connection]:
            with store.backend.reading() as connection:
                connection.exec_driver_sql("SELECT nonsense")
                yield connection

        monkeypatch.setattr(store.backend, "searching", broken)
        with pytest.raises(StoreError, match="The chats cannot be read: no such column"):
            store.chats(MEI, "title")


def test_search_covers_messages(store: ChatStore) -> None:
    message = ChatMessage("m", None, "user", "Ein Grüner Élan")
    chat = Chat("c", "title", 1.0, 1.0, None, ChatSettings())
    store.import_chats(MEI, [ImportedChat(chat, (message,))])
    for query, found in (("grüner é", True), ("GRÜNER", True), ("grüne é", False), ("_", False)):
        assert bool(store.chats(MEI, query)) == found
    assert like_pattern("a_é%") == "a\\__\\%"
