"""Attacks on the import of chats: files that a hostile visitor sends."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from model.errors import RequestError
from tests.security.chat_samples import (
    ANNA,
    MALLORY,
    begin_chat,
    export_file,
    export_files,
    exported_chat,
    with_message,
)
from tests.web.chats.conftest import address as address
from tests.web.chats.conftest import open_chat_store as open_chat_store
from tests.web.chats.conftest import server as server
from tests.web.chats.conftest import store as store
from tests.web.chats.store.samples import OWNER_CALLS
from web.chats.store import import_writer
from web.chats.store.chat_store import ChatStore
from web.chats.store.errors import UnknownChatError
from web.chats.store.models import (
    MAX_TITLE,
    ChatMessage,
    ImportedChat,
    MessageState,
)
from web.chats.transfer.export import export_chats
from web.chats.transfer.import_file import read_chats


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10_000 + "]" * 10_000,
        '{"messages":' * 10_000 + "[]" + "}" * 10_000,
        '{"messages": [{"role": "user", "content": ' + "[" * 10_000 + "]" * 10_000 + "}]}",
        export_file(exported_chat(settings={"sampling": {"stop": []}}))[:-1]
        + ', "x": ' + "[" * 50_000,
        "[" + "[]," * 1_000_000 + "[]]",
        '{"messages": [' + "{}," * 1_000_000 + "{}]}",
        "{" + '"a":1,' * 500_000 + '"b":1}',
        "9" * 5_000_000,
        "-" * 5_000_000,
        " " * 5_000_000,
        '"' + "\\\\" * 2_000_000,
        "\ud83d" * 1000,
        "\0" * 1000,
    ],
    ids=lambda text: ascii(text[:12]),
)  # fmt: skip
def test_file_that_is_made_to_take_long_is_refused(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        list(read_chats(text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["created", "updated"])
@pytest.mark.parametrize("value", ["-1", "-1e308", "NaN", "Infinity", "1e999", '"1"', "true", "[]"])
def test_invalid_time_is_refused(field: str, value: str) -> None:
    text = export_file(exported_chat(**{field: "TIME"})).replace('"TIME"', value)
    with pytest.raises(RequestError):
        list(read_chats(text))
    text = with_message(created="TIME").replace('"TIME"', value)
    with pytest.raises(RequestError):
        list(read_chats(text))


@pytest.mark.parametrize("value", ["1" + "0" * 400, "1e308", "9" * 4000])
def test_future_time_is_now(value: str) -> None:
    text = export_file(exported_chat(created="TIME")).replace('"TIME"', value)
    assert next(read_chats(text)).chat.created <= time.time()


def test_file_with_ids_of_another_owner_reaches_nothing_of_theirs(store: ChatStore) -> None:
    """Ids in a file are only names within it."""
    chat = begin_chat(store)
    reply = ChatMessage("a", chat.head, "assistant", "secret too", comparison="c")
    store.add(ANNA, chat.id, reply)
    before = store.chat(ANNA, chat.id), store.messages(ANNA, chat.id)
    question = {"id": chat.head, "role": "user", "text": "mine", "parent": None}
    answer = {"id": "a", "role": "assistant", "text": "mine", "parent": chat.head,
              "comparison": "c", "repeats": "a", "chat": chat.id, "server": "x"}  # fmt: skip
    value = exported_chat(
        messages=[question, answer], head="a", votes=[{"comparison": "c", "winner": "a"}]
    ) | {"id": chat.id, "owner": ANNA}
    (kept,) = store.import_chats(MALLORY, read_chats(export_file(value)))
    assert kept.id != chat.id
    assert {chat.id, chat.head, "a"}.isdisjoint(store.messages(MALLORY, kept.id))
    assert (store.chat(ANNA, chat.id), store.messages(ANNA, chat.id)) == before
    assert store.votes(ANNA) == []
    assert "secret" not in "".join(export_chats(store, MALLORY))
    for parent in (chat.head, "a"):  # ids that the file itself does not have
        with pytest.raises(RequestError, match="missing or comes later"):
            store.import_chats(MALLORY, read_chats(with_message(parent=parent)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "x" * 2_000_001}, "longer than 2 MB"),
        ({"text": "字" * 700_000}, "longer than 2 MB"),
        ({"runs": [{}] * 2000}, "runs"),
        ({"runs": [{"base": "x" * 200_000}]}, "The setting base"),
        ({"runs": [{"settings": {"system": "x" * 200_000}}]}, "The setting"),
        ({"runs": [{"completion_tokens": 2**64}]}, "The setting completion_tokens"),
        ({"runs": [{"completion_tokens": -1}]}, "The setting completion_tokens"),
    ],
)
def test_message_with_too_large_fields_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        list(read_chats(with_message(**changes)))


def test_settings_with_too_long_texts_are_refused() -> None:
    for text in (
        export_file(exported_chat(settings={"system": "x" * 200_000})),
        export_file(exported_chat(settings={"adapter": "x" * 200_000})),
        json.dumps({"system": "x" * 200_000, "messages": [{"role": "user", "content": "x"}]}),
        json.dumps({"messages": [{"role": "system", "content": "x" * 200_000},
                                 {"role": "user", "content": "x"}]}),
    ):  # fmt: skip
        with pytest.raises(RequestError):
            list(read_chats(text))


def test_long_title_is_cut_in_a_file_and_refused_from_a_user(store: ChatStore) -> None:
    """It is not split into a million words first."""
    for title in ("x" * 300_000, "a " * 2_000_000, "\n" * 300_000 + "x", "\ud83d\0" * 150_000):
        (kept,) = store.import_chats(ANNA, read_chats(export_file(exported_chat(title=title))))
        assert len(kept.title) <= MAX_TITLE
        assert store.chat(ANNA, kept.id).title == kept.title
        with pytest.raises(RequestError, match="has more than 200 characters"):
            store.rename(ANNA, kept.id, title)
    foreign = {"messages": [{"role": "user", "content": "\n" * 1_000_000 + "x"}]}
    assert store.import_chats(ANNA, read_chats(json.dumps(foreign)))[0].title == "…"


def test_lone_surrogates_and_nul_in_a_file_are_replaced(store: ChatStore) -> None:
    text = with_message(text="a\ud83d\0b", error="\udc00\0", id="\ud83d", runs=[
        {"base": "\ud83d\0", "settings": {"system": "\udc00"}}])  # fmt: skip
    text = text.replace('"head": "q"', '"head": "\\ud83d"')
    (kept,) = store.import_chats(ANNA, read_chats(text))
    (message,) = store.messages(ANNA, kept.id).values()
    assert (message.text, message.error) == ("a��b", "��")
    assert message.runs[0].base == "��"
    assert "".join(export_chats(store, ANNA)).encode()


def test_imported_reply_does_not_stream(store: ChatStore) -> None:
    """Its chat would be busy for ever."""
    (kept,) = store.import_chats(
        ANNA, read_chats(with_message(state="streaming", role="assistant"))
    )
    (message,) = store.messages(ANNA, kept.id).values()
    assert message.state is MessageState.INTERRUPTED
    assert store.streaming(kept.id) == []


def test_chats_of_a_running_import_are_hidden(store: ChatStore) -> None:
    """From every call, until all of them are there."""
    staged: list[str] = []

    def read_and_look() -> Iterator[ImportedChat]:
        for chat in read_chats(export_files(4)):
            yield chat
            with store.reading() as connection:
                ids = connection.exec_driver_sql("SELECT id FROM chats").scalars().all()
            staged.extend(ids)
            for made_up_id in ids:
                for call in OWNER_CALLS.values():
                    with pytest.raises(UnknownChatError):
                        call(store, ANNA, made_up_id, "none")
            assert store.chats(ANNA) == store.chats(ANNA, "t") == list(store.each_chat(ANNA)) == []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_writer, "MAX_ROWS", 2)
        kept = store.import_chats(ANNA, read_and_look())
    assert staged
    assert {chat.id for chat in store.chats(ANNA)} == {chat.id for chat in kept}
    assert len(kept) == 4


@pytest.mark.parametrize("text", ["]", ", 7]", ', {"messages": []}]', ""])
def test_file_that_is_invalid_at_its_end_leaves_nothing(
    store: ChatStore, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(import_writer, "MAX_ROWS", 10)
    file = export_files(30)[:-1] + (text if text != "]" else "]]")
    with pytest.raises(RequestError):
        store.import_chats(ANNA, read_chats(file))
    with store.reading() as connection:
        assert connection.exec_driver_sql("SELECT id FROM chats").all() == []
        assert connection.exec_driver_sql("SELECT id FROM messages").all() == []


def test_chats_of_a_killed_import_are_purged(
    store: ChatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_until_killed() -> Iterator[ImportedChat]:
        yield from read_chats(export_file(exported_chat()))
        raise KeyboardInterrupt

    monkeypatch.setattr(import_writer, "MAX_ROWS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_destroy", lambda *_: 0)
        with pytest.raises(KeyboardInterrupt):
            store.import_chats(ANNA, read_until_killed())
    assert store.chats(ANNA) == []
    assert store.purge(time.time() - 60) == 0  # an import of another server may be running
    assert store.purge(time.time() + 1) == 1


def test_others_write_while_a_file_is_imported(
    store: ChatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was one transaction: replies that streamed were not saved until its end."""
    monkeypatch.setattr(import_writer, "MAX_ROWS", 10)
    staged: list[int] = []  # chats in the database, after each chat of the file
    chat = begin_chat(store, MALLORY)

    def read_and_write() -> Iterator[ImportedChat]:
        for imported in read_chats(export_files(30)):
            yield imported
            number = len(staged)
            store.add(MALLORY, chat.id, ChatMessage(f"m{number}", None, "user", "meanwhile"))
            with store.reading() as connection:
                rows = connection.exec_driver_sql("SELECT id FROM chats").all()
            staged.append(len(rows) - 1)

    store.import_chats(ANNA, read_and_write())
    assert staged == [number // 5 * 5 for number in range(1, 31)]  # in batches of ten rows
    assert len(store.messages(MALLORY, chat.id)) == 31
    assert len(store.chats(ANNA)) == 30
