"""The store as a whole, over both databases: owners, imports, several writers, and a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from model.config.settings import CHECKOUT
from model.errors import RequestError
from model.sampling import Sampling
from tests.web.chats.conftest import OpenChatStore
from tests.web.chats.store.samples import (
    MEI,
    OTHER,
    OWNER_CALLS,
    RUN,
    SETTINGS,
    begin_chat,
    question,
    streaming_reply,
    titles,
)
from web.chats.store.chat_store import ChatStore, StoreError, UnknownChatError
from web.chats.store.models import (
    MAX_TEXT,
    Chat,
    ChatSettings,
    ImportedChat,
    MessageState,
    SavedPreset,
    Snippet,
    Vote,
)


def test_chat_is_read_as_it_was_stored(store: ChatStore, open_chat_store: OpenChatStore) -> None:
    chat = begin_chat(store)
    reply = replace(streaming_reply("a", chat.head or ""), text="夜静", error="e", runs=(RUN,))
    store.add(MEI, chat.id, replace(reply, repeats="r"))
    again = open_chat_store()
    assert again.chat(MEI, chat.id) == store.chat(MEI, chat.id)
    assert again.chat(MEI, chat.id).settings == SETTINGS
    messages = again.messages(MEI, chat.id)
    assert list(messages.values()) == [question(f"q-{chat.id}"), replace(reply, repeats="r")]
    assert again.message(MEI, "a") == (chat.id, messages["a"])


@pytest.mark.parametrize("name", OWNER_CALLS)
def test_data_of_another_owner_looks_unknown(store: ChatStore, name: str) -> None:
    """The error is that of an unknown id, so it does not show that the chat exists."""
    chat = begin_chat(store)
    store.add(MEI, chat.id, streaming_reply("a", chat.head or "", "c"))
    before = (store.chats(MEI), store.messages(MEI, chat.id))
    errors = set()
    for owner, chat_id, message in ((OTHER, chat.id, "a"), (MEI, "none", "none")):
        with pytest.raises(UnknownChatError) as caught:
            OWNER_CALLS[name](store, owner, chat_id, message)
        errors.add((str(caught.value), caught.value.http_status, caught.value.code))
    assert len(errors) == 1
    assert (store.chats(MEI), store.messages(MEI, chat.id)) == before
    assert store.votes(MEI) == []


def test_lists_are_of_one_owner(store: ChatStore) -> None:
    chat = begin_chat(store)
    store.add(MEI, chat.id, streaming_reply("a", chat.head or "", "c"))
    store.vote(MEI, Vote("c", chat.id, "a", 1.0))
    store.save_snippet(MEI, Snippet("s", "text"))
    store.save_preset(MEI, SavedPreset("p", Sampling()))
    assert store.chats(OTHER) == []
    assert store.chats(OTHER, "chat") == []
    assert store.votes(OTHER) == store.votes(OTHER, chat.id) == []
    assert store.snippets(OTHER) == []
    assert store.presets(OTHER) == []
    store.delete_snippet(OTHER, "s")
    store.delete_preset(OTHER, "p")
    assert store.snippets(MEI)
    assert store.presets(MEI)


def test_import_stores_all_chats_or_none(store: ChatStore) -> None:
    messages = (question("q"), streaming_reply("a", "q", "c"), streaming_reply("b", "q", "c"))
    good = ImportedChat(
        Chat("1", "one", 1.0, 2.0, "b", SETTINGS), messages, (Vote("c", "1", "b", 3.0),)
    )
    with_same_id = ImportedChat(Chat("2", "two", 1.0, 2.0, None, SETTINGS), messages[:1])
    with pytest.raises(StoreError):
        store.import_chats(MEI, (good, with_same_id))
    assert store.chats(MEI) == []
    assert store.import_chats(MEI, [good]) == [good.chat] == store.chats(MEI)
    assert tuple(store.messages(MEI, "1").values()) == messages
    assert store.votes(MEI) == list(good.votes)
    too_long = ImportedChat(with_same_id.chat, (question("long", text="x" * (MAX_TEXT + 1)),))
    with pytest.raises(RequestError):
        store.import_chats(MEI, [too_long])


def run_in_threads(*actions: Callable[[], object]) -> list[BaseException]:
    """Runs each action in a thread of its own; returns what they raise."""
    errors: list[BaseException] = []

    def run(action: Callable[[], object]) -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_threads_lose_no_writes(store: ChatStore) -> None:
    def write(number: int) -> None:
        chat = begin_chat(store, title=str(number))
        for count in range(20):
            parent = store.chat(MEI, chat.id).head
            store.add(MEI, chat.id, question(f"{number}-{count}", parent))
        assert len(store.messages(MEI, chat.id)) == 21

    assert not run_in_threads(*(partial(write, number) for number in range(8)))
    assert len(store.chats(MEI)) == 8


def test_two_stores_share_one_database(store: ChatStore, open_chat_store: OpenChatStore) -> None:
    chat = begin_chat(store)
    open_chat_store().add(MEI, chat.id, question("other", chat.head))
    assert list(store.messages(MEI, chat.id)) == [chat.head, "other"]


def test_stores_write_at_the_same_time(open_chat_store: OpenChatStore) -> None:
    """A transaction that begins with a read takes the lock before it reads."""
    stores = {name: open_chat_store() for name in "abc"}
    chat = stores["a"].create(MEI, "title", SETTINGS).id

    def write(name: str) -> None:
        for count in range(50):
            stores[name].add(MEI, chat, question(f"{name}-{count}"))

    assert not run_in_threads(*(partial(write, name) for name in stores))
    assert len(stores["a"].messages(MEI, chat)) == 150


def test_closed_store_refuses_calls(store: ChatStore) -> None:
    store.close()
    store.close()
    with pytest.raises(StoreError, match="cannot be read"):
        store.chats(MEI)
    with pytest.raises(StoreError, match="cannot be saved"):
        store.create(MEI, "late", SETTINGS)


WRITE_ENDLESSLY = """
import sys
from itertools import count
from tests.web.chats.conftest import store_at
from web.chats.store.models import ChatMessage, ChatSettings, MessageState

store = store_at(sys.argv[1])
chat = store.create("mei", "title", ChatSettings()).id
reply = ChatMessage("a", None, "assistant", "", MessageState.STREAMING)
store.add("mei", chat, reply, server="dead")
for number in count():
    store.add("mei", chat, ChatMessage(f"m{number}", None, "user", "x" * 5000))
    store.save_text("a", "x" * number, "dead")
    print(number, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_returned_writes_survive_a_kill(address: str, open_chat_store: OpenChatStore) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", WRITE_ENDLESSLY, address],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout
    with child.stdout:
        for line in child.stdout:
            if line == "200\n":
                break
        child.send_signal(signal.SIGKILL)
        written = [200, *(int(line) for line in child.stdout if line.endswith("\n"))]
    child.wait(timeout=30)
    store = open_chat_store()
    (chat,) = store.chats("mei")
    messages = store.messages("mei", chat.id)
    assert len(messages) - 1 in (written[-1] + 1, written[-1] + 2)
    assert len(messages["a"].text) >= written[-1]
    assert store.mark_interrupted(lambda server: False) == 1
    if "://" not in address:
        with store.reading() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"


def test_lone_surrogates_are_replaced(store: ChatStore) -> None:
    """Browsers can send them. A stored text has to be sendable."""
    chat = store.create(MEI, "a\ud83d", ChatSettings(system="\ud83d"))
    store.add(MEI, chat.id, question("q", text="b\ud83d"))
    store.rename(MEI, chat.id, "c\ud83d")
    assert store.message(MEI, "q")[1].text == "b�"
    assert store.chat(MEI, chat.id).title == "c�"
    assert store.chat(MEI, chat.id).settings.system == "�"
    with pytest.raises(RequestError, match="invalid character"):
        store.chat(MEI, "\ud83d")


def test_nul_is_replaced(store: ChatStore) -> None:
    """PostgreSQL cannot store it; a model can generate it, and a page can send it."""
    chat = store.create(MEI, "a\0b", ChatSettings(system="c\0"))
    store.add(MEI, chat.id, question("q", text="d\0e"))
    store.save_snippet(MEI, Snippet("n\0", "t\0"))
    store.save_preset(MEI, SavedPreset("p\0", Sampling(stop=("s\0",))))
    assert titles(store, "a\0B") == ["a�b"]
    assert store.chat(MEI, chat.id).settings.system == "c�"
    assert store.message(MEI, "q")[1].text == "d�e"
    assert (store.snippets(MEI), store.snippet(MEI, "n�")) == (["n�"], "t�")
    assert [preset.name for preset in store.presets(MEI)] == ["p�"]
    store.rename(MEI, chat.id, "r\0")
    reply = streaming_reply("a", "q")
    store.add(MEI, chat.id, reply, "me")
    store.save_text("a", "m\0", "me")
    assert store.message(MEI, "a")[1].text == "m�"
    store.finish(replace(reply, text="f\0", error="e\0", state=MessageState.FAILED), "me")
    assert store.message(MEI, "a")[1].text == "f�"
    for call in OWNER_CALLS.values():
        with pytest.raises(UnknownChatError):
            call(store, MEI, "\0", "\0")
    assert store.snippet(MEI, "\0") == ""
    store.delete_snippet(MEI, "\0")
    store.delete_preset(MEI, "\0")


def test_errors_contain_no_texts_of_users(store: ChatStore) -> None:
    chat, secret = begin_chat(store), "密语"
    with pytest.raises(StoreError) as caught:
        store.add(MEI, chat.id, question(chat.head or "", text=secret))
    assert secret not in "".join(traceback.format_exception(caught.value))
