"""Exports, which read the store page by page, over both databases."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from model.sampling import Sampling
from web.chats.store import chats, messages
from web.chats.store.chat_store import ChatStore
from web.chats.store.errors import UnknownChatError
from web.chats.store.models import ChatMessage, ChatSettings, GenerationRun, MessageState, Vote
from web.chats.transfer import export
from web.chats.transfer.export import (
    export_chat,
    export_chats,
    export_markdown,
    export_pairs,
    in_chunks,
)
from web.chats.transfer.import_file import read_chats

MEI, OTHER = "browser:mei", "account:other"
SETTINGS = ChatSettings("古文", 0.5, "alpaca", "你是诗人。", Sampling(seed=4))


def add_chats(store: ChatStore, owner: str = MEI, count: int = 5) -> list[str]:
    """Stores chats with seven questions one after the other; returns their ids."""
    made = []
    for number in range(count):
        made.append(store.create(owner, f"chat {number}", SETTINGS).id)
        parent = None
        for question in range(7):
            name = f"{owner}-{number}-{question}"
            store.add(owner, made[-1], ChatMessage(name, parent, "user", f"{name} 字"))
            parent = name
    return made


def add_comparison(store: ChatStore, owner: str = MEI) -> str:
    """Stores a chat in which one of two replies has won; returns its id."""
    chat = store.create(owner, "compared", SETTINGS).id
    store.add(owner, chat, ChatMessage(f"{owner}-q", None, "user", "?"))
    run = GenerationRun(SETTINGS, "base", "none")
    for name, text in (("a", "yes"), ("b", "no")):
        reply = ChatMessage(
            f"{owner}-{name}", f"{owner}-q", "assistant", text, comparison=f"{owner}-c", runs=(run,)
        )
        store.add(owner, chat, reply)
    store.vote(owner, Vote(f"{owner}-c", chat, f"{owner}-a", 1.0))
    return chat


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every read take several pages."""
    monkeypatch.setattr(chats, "PAGE", 2)
    monkeypatch.setattr(messages, "FIRST_PAGE", 1)
    monkeypatch.setattr(messages, "MAX_PAGE", 3)


@pytest.mark.usefixtures("small_pages")
def test_export_has_all_chats_of_the_owner(store: ChatStore) -> None:
    """It always failed over PostgreSQL, which has no LIMIT -1."""
    add_chats(store)
    add_chats(store, OTHER, 1)
    value = json.loads("".join(export_chats(store, MEI)))
    assert [chat["title"] for chat in value["chats"]] == [f"chat {n}" for n in (4, 3, 2, 1, 0)]
    for number, chat in zip((4, 3, 2, 1, 0), value["chats"], strict=True):
        assert [m["id"] for m in chat["messages"]] == [f"{MEI}-{number}-{q}" for q in range(7)]
        assert chat["head"] == f"{MEI}-{number}-6"


@pytest.mark.usefixtures("small_pages")
def test_export_can_be_imported_by_another_owner(store: ChatStore) -> None:
    add_chats(store)
    add_comparison(store)
    kept = store.import_chats(OTHER, read_chats("".join(export_chats(store, MEI))))
    assert [chat.title for chat in kept] == [chat.title for chat in store.each_chat(MEI)]
    for mine, theirs in zip(store.each_chat(MEI), kept, strict=True):
        before, after = store.messages(MEI, mine.id), store.messages(OTHER, theirs.id)
        assert [(m.text, m.runs) for m in before.values()] == [
            (m.text, m.runs) for m in after.values()
        ]
        assert theirs.settings == SETTINGS
    assert len(store.votes(OTHER)) == 1


def test_export_without_chats_or_messages(store: ChatStore) -> None:
    assert json.loads("".join(export_chats(store, MEI)))["chats"] == []
    assert list(export_pairs(store, MEI)) == []
    chat = store.create(MEI, "empty", SETTINGS).id
    (one,) = json.loads("".join(export_chat(store, MEI, chat)))["chats"]
    assert one["messages"] == []
    assert "".join(export_markdown(store, MEI, chat)) == "# empty\n\n## System\n\n你是诗人。\n"


def test_export_of_one_chat_as_json_and_markdown(store: ChatStore) -> None:
    made = add_chats(store)
    (one,) = json.loads("".join(export_chat(store, MEI, made[2])))["chats"]
    assert one["title"] == "chat 2"
    assert len(one["messages"]) == 7
    text = "".join(export_markdown(store, MEI, made[2]))
    assert text.startswith("# chat 2\n\n## System\n\n你是诗人。\n\n## User\n\n")
    assert text.count("## User") == 7


def test_export_of_another_owner_s_chat_is_refused(store: ChatStore) -> None:
    (chat,) = add_chats(store, count=1)
    add_comparison(store)
    for function in (export_chat, export_markdown):
        for owner, name in ((OTHER, chat), (MEI, "none"), (MEI, "x" * 1_000_000)):
            with pytest.raises(UnknownChatError):
                function(store, owner, name)
    assert json.loads("".join(export_chats(store, OTHER)))["chats"] == []
    assert list(export_pairs(store, OTHER)) == []


def test_export_has_the_owner_s_preference_pairs(store: ChatStore) -> None:
    add_comparison(store)
    add_comparison(store, OTHER)
    add_chats(store)
    (line,) = "".join(export_pairs(store, MEI)).splitlines()
    assert json.loads(line) == {
        "prompt": [{"role": "system", "content": "你是诗人。"}, {"role": "user", "content": "?"}],
        "chosen": [{"role": "assistant", "content": "yes"}],
        "rejected": [{"role": "assistant", "content": "no"}],
    }


@pytest.mark.usefixtures("small_pages")
def test_export_while_chats_come_and_go(store: ChatStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chat that is there at the beginning and at the end is exported once."""
    monkeypatch.setattr(export, "CHUNK", 10)
    made = add_chats(store)
    chunks = export_chats(store, MEI)
    text = ""
    while "chat 4" not in text:
        text += next(chunks)
    store.delete(MEI, made[1])
    store.create(MEI, "new", SETTINGS)
    store.add(MEI, made[0], ChatMessage("more", None, "user", "now the first of the list"))
    value = json.loads(text + "".join(chunks))
    assert [chat["title"] for chat in value["chats"]] == ["chat 4", "chat 3", "chat 2", "chat 0"]


@pytest.mark.usefixtures("small_pages")
def test_chat_that_is_deleted_meanwhile_is_exported_as_a_whole(
    store: ChatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it could not be imported, as its head would be missing."""
    monkeypatch.setattr(export, "CHUNK", 10)
    (chat,) = add_chats(store, count=1)
    chunks = export_chats(store, MEI)
    text = ""
    while f"{MEI}-0-1" not in text:
        text += next(chunks)
    store.delete(MEI, chat)
    (one,) = read_chats(text + "".join(chunks))
    assert len(one.messages) == 7


def test_chat_that_changes_meanwhile_can_be_imported(
    store: ChatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file refers to no message that it lacks."""
    chat = store.create(MEI, "title", SETTINGS).id
    store.add(MEI, chat, ChatMessage("q", None, "user", "?"))
    each_message = store.each_message

    def add_reply_and_read(owner: str, chat: str) -> Any:
        reply = ChatMessage("a", "q", "assistant", "", MessageState.STREAMING, comparison="c")
        store.add(owner, chat, reply)
        store.vote(owner, Vote("c", chat, "a", 1.0))
        return each_message(owner, chat)

    monkeypatch.setattr(store, "each_message", add_reply_and_read)
    (one,) = read_chats("".join(export_chats(store, MEI)))
    assert [m.state for m in one.messages] == [MessageState.DONE, MessageState.INTERRUPTED]


def test_pages_of_long_messages_are_small(
    store: ChatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chat may have gigabytes of them."""
    monkeypatch.setattr(messages, "PAGE_CHARACTERS", 1000)
    monkeypatch.setattr(messages, "FIRST_PAGE", 4)
    chat = store.create(MEI, "title", SETTINGS).id
    for number in range(12):
        store.add(MEI, chat, ChatMessage(str(number), None, "user", "x" * 500))
    sizes: list[int] = []
    reading = store.reading

    def count_pages() -> Any:
        sizes.append(0)
        return reading()

    monkeypatch.setattr(store, "reading", count_pages)
    for _ in store.each_message(MEI, chat):
        sizes[-1] += 1
    assert sizes == [4, 1, 2, 4, 1, 0]


@pytest.mark.parametrize("size", [1, 3, 10, 65_536])
def test_chunks_have_at_most_their_size(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "CHUNK", size)
    parts = ["", "a", "bc" * 10, "", "d" * 33, "e"]
    chunks = list(in_chunks(parts))
    assert "".join(chunks) == "".join(parts)
    assert all(0 < len(chunk) <= size for chunk in chunks)
    assert list(in_chunks([])) == []


def test_export_of_long_messages_comes_in_chunks(store: ChatStore) -> None:
    chat = store.create(MEI, "title", SETTINGS).id
    question = ChatMessage("q", None, "user", "字" * 300_000)
    store.add(MEI, chat, question)
    store.add(MEI, chat, replace(question, id="q2"))
    for chunks in (export_chat(store, MEI, chat), export_markdown(store, MEI, chat)):
        lengths = [len(chunk) for chunk in chunks]
        assert max(lengths) <= export.CHUNK
        assert sum(lengths) > 300_000
