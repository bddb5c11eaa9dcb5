"""Attacks on the chat store: ids and amounts that a hostile visitor sends."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from model.errors import LinlyError, RequestError
from tests.security.chat_samples import (
    ANNA,
    MALLORY,
    begin_chat,
    export_file,
    export_files,
    exported_chat,
)
from tests.web.chats.conftest import address as address
from tests.web.chats.conftest import open_chat_store as open_chat_store
from tests.web.chats.conftest import server as server
from tests.web.chats.conftest import store as store
from tests.web.chats.store.samples import OWNER_CALLS
from web.chats.store import chats, usage
from web.chats.store.chat_store import ChatStore
from web.chats.store.errors import StoreError, UnknownChatError
from web.chats.store.models import (
    ChatMessage,
    ChatSettings,
    MessageState,
    Snippet,
)
from web.chats.transfer.export import export_chats
from web.chats.transfer.import_file import read_chats

LONG = 5_000_000


@pytest.mark.parametrize("name", OWNER_CALLS)
@pytest.mark.parametrize(
    "made_up_id", ["x" * LONG, "\0" * 300, "字" * 100_000, "' OR 1=1 --", "%", "_" * 32]
)
def test_made_up_ids_are_unknown(store: ChatStore, name: str, made_up_id: str) -> None:
    begin_chat(store)
    with pytest.raises(UnknownChatError):
        OWNER_CALLS[name](store, MALLORY, made_up_id, made_up_id)
    with pytest.raises(UnknownChatError):
        OWNER_CALLS[name](store, ANNA, made_up_id, made_up_id)


def test_long_ids_are_not_sent_to_the_database(tmp_path: Path) -> None:
    longest = 0

    def record(connection: Any, cursor: Any, statement: str, values: Any, *_: Any) -> None:
        nonlocal longest
        longest = max([longest, *(len(value) for value in values if isinstance(value, str))])

    with closing(ChatStore(tmp_path / "chats.db")) as store:
        for context in (store.reading, store.transaction):
            with context() as connection:
                event.listen(connection.engine, "before_cursor_execute", record)
        for call in OWNER_CALLS.values():
            for made_up_id in ("x" * LONG, "\ud83d" * LONG):
                with pytest.raises(UnknownChatError):
                    call(store, "session:" + made_up_id, made_up_id, made_up_id)
        assert store.chats(ANNA, "x" * LONG) == []
        assert store.snippet(ANNA, "x" * LONG) == ""
        store.delete_snippet(ANNA, "x" * LONG)
        store.delete_preset(ANNA, "x" * LONG)
    assert 0 < longest <= 300


def test_owners_with_long_names_are_distinct(store: ChatStore) -> None:
    """Each long name has a digest of its own."""
    long = "session:" + "x" * 1000
    chat = store.create(long + "a", "mine", ChatSettings())
    assert store.chat(long + "a", chat.id) == chat
    assert store.chats(long + "b") == store.chats(long) == []


def test_number_of_chats_of_an_owner_is_bounded(
    store: ChatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "MAX_CHATS_PER_OWNER", 3)
    monkeypatch.setattr(usage, "RECHECK_SECONDS", 0.0)
    made = [store.create(ANNA, "title", ChatSettings()).id for _ in range(3)]
    for attempt in (
        lambda: store.create(ANNA, "title", ChatSettings()),
        lambda: store.import_chats(ANNA, read_chats(export_file(exported_chat()))),
    ):
        with pytest.raises(RequestError, match="You have 3 chats, which is the limit"):
            attempt()
    assert len(store.chats(ANNA)) == 3
    store.add(ANNA, made[0], ChatMessage("q", None, "user", "there is room for messages"))
    begin_chat(store, MALLORY)
    store.delete(ANNA, made[0])
    store.import_chats(ANNA, read_chats(export_file(exported_chat())))
    with pytest.raises(RequestError, match="You have 3 chats"):
        store.create(ANNA, "title", ChatSettings())
    with store.reading() as connection:
        owners = connection.exec_driver_sql("SELECT owner FROM chats").scalars().all()
    assert set(owners) == {ANNA, MALLORY}


def test_storage_of_an_owner_is_bounded(store: ChatStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MAX_BYTES_PER_OWNER", 1_000_000)
    monkeypatch.setattr(usage, "RECHECK_SECONDS", 0.0)
    chat = begin_chat(store)
    store.add(ANNA, chat.id, ChatMessage("q", None, "user", "字" * 200_000))
    large = ChatMessage("q2", None, "user", "字" * 200_000)
    file = {"messages": [{"role": "user", "content": large.text}]}
    for attempt in (
        lambda: store.add(ANNA, chat.id, large),
        lambda: store.save_snippet(ANNA, Snippet("s", large.text)),
        lambda: store.import_chats(ANNA, read_chats(json.dumps(file))),
        lambda: store.set_settings(ANNA, chat.id, ChatSettings(system="x" * 600_000)),
    ):
        with pytest.raises(RequestError, match="take up 1 MB, which is the limit") as caught:
            attempt()
    assert caught.value.remedy == "Delete some first."
    assert set(store.messages(ANNA, chat.id)) == {"q", chat.head or ""}
    other = begin_chat(store, MALLORY)
    store.add(MALLORY, other.id, large)
    store.delete(ANNA, chat.id)
    assert store.import_chats(ANNA, read_chats(json.dumps(file)))


def test_deleted_chats_do_not_fill_the_disk(
    store: ChatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are kept for days, so that they can be restored."""
    monkeypatch.setattr(usage, "MAX_CHATS_PER_OWNER", 2)
    monkeypatch.setattr(chats, "RESTORE_SECONDS", -1.0)
    for _ in range(12):
        store.delete(ANNA, begin_chat(store).id)
    store.delete(MALLORY, begin_chat(store, MALLORY).id)
    with store.reading() as connection:
        kept = connection.exec_driver_sql("SELECT count(*) FROM chats").scalar_one()
    assert kept <= 2 + 2 + 1


def test_usage_is_measured_from_time_to_time(
    store: ChatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts that stream are counted only then."""
    chat = begin_chat(store)
    reply = ChatMessage("a", chat.head, "assistant", "", MessageState.STREAMING)
    store.add(ANNA, chat.id, reply, "me")
    store.save_text("a", "x" * 500_000, "me")
    monkeypatch.setattr(usage, "MAX_BYTES_PER_OWNER", 400_000)
    store.add(ANNA, chat.id, ChatMessage("q2", None, "user", "?"))
    monkeypatch.setattr(usage, "MEASURE_SECONDS", -1.0)
    with pytest.raises(RequestError, match="which is the limit"):
        store.add(ANNA, chat.id, ChatMessage("q3", None, "user", "?"))


def test_usage_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MAX_OWNERS", 3)
    cache = usage.UsageCache()
    for number in range(10):
        cache.set(str(number), usage.StorageUsage(0, 0, 0, 0, time.monotonic()))
    assert len(cache) == 3


def test_one_visitor_does_not_block_the_others(tmp_path: Path) -> None:
    """With searches, exports and imports from many threads at once."""
    with closing(ChatStore(tmp_path / "chats.db")) as store, ExitStack() as stack:
        file = export_files(50)
        store.import_chats(MALLORY, read_chats(file))
        stop, errors = threading.Event(), list[BaseException]()

        def attack(number: int) -> None:
            while not stop.is_set():
                try:
                    if number % 3 == 0:
                        store.import_chats(MALLORY, read_chats(file))
                    elif number % 3 == 1:
                        store.chats(MALLORY, "é")
                    else:
                        "".join(export_chats(store, MALLORY))
                except LinlyError:
                    continue
                except BaseException as error:
                    errors.append(error)

        threads = [threading.Thread(target=attack, args=(number,)) for number in range(9)]
        for thread in threads:
            stack.callback(thread.join)
            thread.start()
        stack.callback(stop.set)
        for _ in range(5):
            chat = begin_chat(store)
            assert store.messages(ANNA, chat.id)
            store.check()
    assert not errors


def test_error_of_an_id_in_use_reveals_nothing(store: ChatStore) -> None:
    """Neither its owner nor its text."""
    chat = begin_chat(store)
    mine = begin_chat(store, MALLORY)
    with pytest.raises(StoreError) as caught:
        store.add(MALLORY, mine.id, ChatMessage(chat.head or "", None, "user", "x"))
    assert "secret" not in str(caught.value)
    assert ANNA not in str(caught.value)
