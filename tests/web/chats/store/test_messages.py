"""Messages in the store: replies that stream, and which server writes them, over both databases."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from model.errors import RequestError
from tests.web.chats.conftest import OpenChatStore
from tests.web.chats.store.samples import (
    MEI,
    RUN,
    SETTINGS,
    begin_chat,
    question,
    streaming_reply,
    titles,
)
from web.chats.store.chat_store import ChatStore, UnknownChatError
from web.chats.store.errors import ReplyBusyError
from web.chats.store.models import MAX_TEXT, ChatMessage, MessageState, Snippet


def all_dead(server: str) -> bool:
    """As if no server were alive."""
    return False


def test_parent_must_be_in_the_same_chat(store: ChatStore) -> None:
    chat, other = begin_chat(store), begin_chat(store)
    for parent in (other.head, "none", "new"):
        with pytest.raises(UnknownChatError):
            store.add(MEI, chat.id, question("new", parent))
    assert "new" not in store.messages(MEI, chat.id)
    assert store.chat(MEI, chat.id) == chat


def test_reopened_reply_moves_its_chat_up(store: ChatStore) -> None:
    first = begin_chat(store, title="1")
    reply = streaming_reply("a", first.head or "")
    store.add(MEI, first.id, reply)
    store.finish(replace(reply, state=MessageState.CUT, text="half"))
    begin_chat(store, title="2")
    store.reopen(MEI, replace(reply, runs=(RUN, RUN)), "server")
    assert titles(store) == ["1", "2"]
    stored = store.messages(MEI, first.id)["a"]
    assert (stored.state, stored.text, stored.runs) == (MessageState.STREAMING, "half", (RUN, RUN))
    with pytest.raises(RequestError, match="already"):
        store.reopen(MEI, reply, "another server")


def test_text_is_saved_until_the_reply_ends(store: ChatStore) -> None:
    chat = begin_chat(store)
    reply = streaming_reply("a", chat.head or "")
    store.add(MEI, chat.id, reply, server="me")
    updated = store.chat(MEI, chat.id).updated
    store.save_text("a", "床前", "me")
    assert store.message(MEI, "a")[1] == replace(reply, text="床前")
    done = replace(reply, text="床前明月光", state=MessageState.FAILED, error="Why.", runs=(RUN,))
    store.finish(done, "me")
    store.save_text("a", "late", "me")
    store.save_runs("a", (), "me")
    assert store.message(MEI, "a")[1] == done
    assert store.chat(MEI, chat.id).updated == updated


def test_reply_may_end_after_its_chat_was_deleted(store: ChatStore) -> None:
    chat = begin_chat(store)
    store.add(MEI, chat.id, streaming_reply("a", chat.head or ""), server="me")
    store.delete(MEI, chat.id)
    store.save_text("a", "went on", "me")
    store.restore(MEI, chat.id)
    assert store.message(MEI, "a")[1].text == "went on"
    store.delete(MEI, chat.id)
    store.purge(time.time() + 1)
    store.save_text("a", "more", "me")
    store.finish(streaming_reply("a", ""), "me")


def test_one_server_at_a_time_generates_in_a_chat(open_chat_store: OpenChatStore) -> None:
    living = {"a", "b"}
    store = ChatStore(open_chat_store().backend, living.__contains__)
    chat = store.create(MEI, "title", SETTINGS).id
    reply = ChatMessage("1", None, "assistant", "", MessageState.STREAMING, comparison="c")
    store.add(MEI, chat, reply, "a")
    for other in (
        replace(reply, id="2", comparison=None),
        replace(reply, id="2", comparison="another"),
    ):
        with pytest.raises(ReplyBusyError):
            store.add(MEI, chat, other, "b")
    store.add(MEI, chat, replace(reply, id="2"), "b")
    cut = replace(reply, id="3", state=MessageState.CUT)
    store.add(MEI, chat, cut)
    with pytest.raises(ReplyBusyError):
        store.reopen(MEI, cut, "b")
    assert store.streaming(chat) == ["1", "2"]
    assert store.message(MEI, "3")[1].state is MessageState.CUT
    store.finish(replace(reply, id="2", state=MessageState.DONE), "b")
    store.add(MEI, chat, replace(reply, id="4", comparison=None), "a")  # it checks its own itself
    living.remove("a")
    store.reopen(MEI, cut, "b")


def test_replies_of_dead_servers_are_marked_interrupted(store: ChatStore) -> None:
    chat = begin_chat(store)
    for name, server in (("a", "dead"), ("b", "alive"), ("c", ""), ("d", "dead")):
        store.add(MEI, chat.id, streaming_reply(name, chat.head or ""), server)
        store.save_text(name, f"text {name}", server)
    store.finish(replace(streaming_reply("d", ""), state=MessageState.DONE), "dead")
    assert store.mark_interrupted(lambda server: server == "alive") == 2
    states = {name: m.state for name, m in store.messages(MEI, chat.id).items() if len(name) == 1}
    assert states == {
        "a": MessageState.INTERRUPTED,
        "b": MessageState.STREAMING,
        "c": MessageState.INTERRUPTED,
        "d": MessageState.DONE,
    }
    assert store.message(MEI, "a")[1].text == "text a"
    assert store.mark_interrupted(lambda server: server == "alive") == 0


def test_write_of_a_server_that_was_taken_for_dead_removes_the_mark(store: ChatStore) -> None:
    """Unless another server has continued its reply."""
    chat = begin_chat(store)
    reply = streaming_reply("a", chat.head or "")
    store.add(MEI, chat.id, reply, "me")
    writes: list[Callable[[], None]] = [
        lambda: store.save_text("a", "more", "me"),
        lambda: store.save_runs("a", (RUN,), "me"),
    ]
    for write in writes:
        assert store.mark_interrupted(all_dead) == 1
        assert store.message(MEI, "a")[1].state is MessageState.INTERRUPTED
        write()
        assert store.message(MEI, "a")[1].state is MessageState.STREAMING
    store.mark_interrupted(all_dead)
    done = replace(reply, text="all of it", state=MessageState.DONE)
    store.finish(done, "me")
    assert store.message(MEI, "a")[1] == done
    assert store.mark_interrupted(all_dead) == 0


def test_only_the_server_that_continued_a_reply_writes_it(store: ChatStore) -> None:
    chat = begin_chat(store)
    reply = streaming_reply("a", chat.head or "")
    store.add(MEI, chat.id, reply, "one")
    store.mark_interrupted(all_dead)
    store.reopen(MEI, reply, "two")
    store.save_text("a", "late", "one")
    store.finish(replace(reply, text="late", state=MessageState.DONE), "one")
    store.save_text("a", "now", "two")
    assert store.message(MEI, "a")[1] == replace(reply, text="now")


def test_one_of_two_stores_continues_a_reply(open_chat_store: OpenChatStore) -> None:
    stores = [open_chat_store(), open_chat_store()]
    chat = begin_chat(stores[0])
    for number in range(30):
        reply = replace(streaming_reply(f"a{number}", chat.head or ""), state=MessageState.CUT)
        stores[0].add(MEI, chat.id, reply)
        succeeded: list[bool] = []

        def reopen(store: ChatStore, reply: ChatMessage, succeeded: list[bool]) -> None:
            try:
                store.reopen(MEI, reply, "server")
                succeeded.append(True)
            except RequestError:
                succeeded.append(False)

        threads = [
            threading.Thread(target=reopen, args=(store, reply, succeeded)) for store in stores
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(succeeded) == [False, True]


def test_text_that_is_too_long_is_refused(store: ChatStore) -> None:
    chat = begin_chat(store)
    store.add(MEI, chat.id, question("long", text="x" * MAX_TEXT))
    for text in ("x" * (MAX_TEXT + 1), "字" * (MAX_TEXT // 3 + 1)):
        with pytest.raises(RequestError, match="2 MB"):
            store.add(MEI, chat.id, question("longer", text=text))
        with pytest.raises(RequestError, match="2 MB"):
            store.save_snippet(MEI, Snippet("s", text))
    assert "longer" not in store.messages(MEI, chat.id)
