"""The store: what is kept, for whom, and what happens when something goes wrong."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace

import pytest

from model.config.settings import CHECKOUT
from model.types import FinishReason, RequestError, Sampling
from tests.web.chats.conftest import OpenChatStore
from web.chats.store import chats, library
from web.chats.store.chat_store import ChatStore, StoreError, UnknownChatError
from web.chats.store.errors import ReplyBusyError
from web.chats.store.models import (
    Chat,
    ChatMessage,
    ChatSettings,
    GenerationRun,
    MessageState,
    SavedPreset,
    Snippet,
    Vote,
)
from web.chats.store.serialization import MAX_TEXT
from web.chats.transfer.import_file import Imported, ImportedChat

MEI, OTHER = "browser:mei", "account:other"
SETTINGS = ChatSettings("古文", 0.5, "alpaca", "你是诗人。", Sampling(seed=4, stop=("。",)))
RUN = GenerationRun(SETTINGS, "base", "int4", reason=FinishReason.STOP, completion_tokens=9)


def asked(name: str, parent: str | None = None, text: str = "?") -> ChatMessage:
    return ChatMessage(name, parent, "user", text, created=12.5)


def replied(name: str, parent: str, compared: str | None = None) -> ChatMessage:
    return ChatMessage(
        name, parent, "assistant", "", MessageState.STREAMING, 13.5, comparison=compared
    )


def begun(store: ChatStore, owner: str = MEI, title: str = "A chat") -> Chat:
    """A chat with a question."""
    chat = store.create(owner, title, SETTINGS)
    store.add(owner, chat.id, asked(f"q-{chat.id}"))
    return store.chat(owner, chat.id)


def titles(store: ChatStore, query: str = "", owner: str = MEI) -> list[str]:
    return [chat.title for chat in store.chats(owner, query)]


def test_a_chat_comes_back_as_it_was(store: ChatStore, open_chat_store: OpenChatStore) -> None:
    chat = begun(store)
    reply = replace(replied("a", chat.head or ""), text="夜静", error="e", runs=(RUN,))
    store.add(MEI, chat.id, replace(reply, repeats="r"))
    question = asked(f"q-{chat.id}")
    again = open_chat_store()
    assert again.chat(MEI, chat.id) == store.chat(MEI, chat.id)
    assert again.chat(MEI, chat.id).settings == SETTINGS
    messages = again.messages(MEI, chat.id)
    assert list(messages.values()) == [question, replace(reply, repeats="r")]
    assert again.message(MEI, "a") == (chat.id, messages["a"])


FOR_OWNERS: dict[str, Callable[[ChatStore, str, str, str], object]] = {
    "chat": lambda s, owner, chat, _: s.chat(owner, chat),
    "rename": lambda s, owner, chat, _: s.rename(owner, chat, "mine"),
    "delete": lambda s, owner, chat, _: s.delete(owner, chat),
    "restore": lambda s, owner, chat, _: s.restore(owner, chat),
    "set_head": lambda s, owner, chat, _: s.set_head(owner, chat, None),
    "set_settings": lambda s, owner, chat, _: s.set_settings(owner, chat, ChatSettings()),
    "messages": lambda s, owner, chat, _: s.messages(owner, chat),
    "message": lambda s, owner, _, message: s.message(owner, message),
    "add": lambda s, owner, chat, message: s.add(owner, chat, asked("new", message)),
    "reopen": lambda s, owner, _, message: s.reopen(owner, asked(message), "server"),
    "vote": lambda s, owner, chat, message: s.vote(owner, Vote("c", chat, None, 1.0)),
}


@pytest.mark.parametrize("name", FOR_OWNERS)
def test_nobody_reaches_what_is_somebody_elses(store: ChatStore, name: str) -> None:
    """And nobody learns that it is there: the error is that of an unknown id."""
    chat = begun(store)
    store.add(MEI, chat.id, replied("a", chat.head or "", "c"))
    before = (store.chats(MEI), store.messages(MEI, chat.id))
    told = set()
    for owner, chat_id, message in ((OTHER, chat.id, "a"), (MEI, "none", "none")):
        with pytest.raises(UnknownChatError) as caught:
            FOR_OWNERS[name](store, owner, chat_id, message)
        told.add((str(caught.value), caught.value.http_status, caught.value.code))
    assert len(told) == 1
    assert (store.chats(MEI), store.messages(MEI, chat.id)) == before
    assert store.votes(MEI) == []


def test_lists_are_of_one_owner(store: ChatStore) -> None:
    chat = begun(store)
    store.add(MEI, chat.id, replied("a", chat.head or "", "c"))
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


def test_the_last_written_in_is_first(store: ChatStore) -> None:
    first, second, third = (begun(store, title=title) for title in ("1", "2", "3"))
    assert titles(store) == ["3", "2", "1"]
    store.add(MEI, first.id, asked("more", first.head))
    assert titles(store) == ["1", "3", "2"]
    store.chat(MEI, second.id)
    store.messages(MEI, second.id)
    store.rename(MEI, second.id, "two")
    store.set_settings(MEI, second.id, ChatSettings())
    store.set_head(MEI, third.id, None)
    assert titles(store) == ["1", "3", "two"]
    assert [chat.title for chat in store.chats(MEI, limit=2)] == ["1", "3"]


def test_to_go_on_with_a_reply_is_to_write(store: ChatStore) -> None:
    first = begun(store, title="1")
    reply = replied("a", first.head or "")
    store.add(MEI, first.id, reply)
    store.finish(replace(reply, state=MessageState.CUT, text="half"))
    begun(store, title="2")
    store.reopen(MEI, replace(reply, runs=(RUN, RUN)), "server")
    assert titles(store) == ["1", "2"]
    kept = store.messages(MEI, first.id)["a"]
    assert (kept.state, kept.text, kept.runs) == (MessageState.STREAMING, "half", (RUN, RUN))
    with pytest.raises(RequestError, match="already"):
        store.reopen(MEI, reply, "another server")


def test_titles(store: ChatStore) -> None:
    chat = begun(store)
    store.rename(MEI, chat.id, "  古诗\n 词  ")
    assert titles(store) == ["古诗 词"]
    store.rename(MEI, chat.id, "x" * 200)
    for wrong in ("", " \n", "x" * 201):
        with pytest.raises(RequestError):
            store.rename(MEI, chat.id, wrong)
    assert store.create(MEI, "x" * 300, SETTINGS).title == "x" * 200


def test_renaming_is_remembered(store: ChatStore) -> None:
    begun(store)
    chat = begun(store)
    store.rename(MEI, chat.id, "mine")
    with store.home.reading() as connection:
        rows = connection.exec_driver_sql("SELECT id FROM chats WHERE named = 1").all()
    assert rows == [(chat.id,)]


def test_deleting_can_be_undone(store: ChatStore) -> None:
    chat = begun(store)
    store.add(MEI, chat.id, replied("a", chat.head or "", "c"))
    store.vote(MEI, Vote("c", chat.id, "a", 1.0))
    before = (store.chat(MEI, chat.id), store.messages(MEI, chat.id), store.votes(MEI))
    store.delete(MEI, chat.id)
    assert store.chats(MEI) == store.chats(MEI, "chat") == []
    assert store.votes(MEI) == []
    for call in set(FOR_OWNERS) - {"restore"}:
        with pytest.raises(UnknownChatError):
            FOR_OWNERS[call](store, MEI, chat.id, "a")
    store.restore(MEI, chat.id)
    assert (store.chat(MEI, chat.id), store.messages(MEI, chat.id), store.votes(MEI)) == before
    store.restore(MEI, chat.id)
    assert store.chats(MEI) == [before[0]]


def test_purging_destroys(store: ChatStore) -> None:
    kept, gone = begun(store), begun(store, title="gone")
    store.add(MEI, gone.id, asked("secret", text="密语" * 10_000))
    store.delete(MEI, gone.id)
    assert store.purge(time.time() - 60) == 0
    store.restore(MEI, gone.id)
    store.delete(MEI, gone.id)
    assert store.purge(time.time() + 1) == 1
    with pytest.raises(UnknownChatError):
        store.restore(MEI, gone.id)
    assert store.chats(MEI) == [kept]
    with store.home.reading() as connection:
        assert connection.exec_driver_sql("SELECT id FROM messages").all() == [(kept.head,)]


def test_purging_goes_a_few_at_a_time(store: ChatStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them at once may take longer than a statement may."""
    monkeypatch.setattr(chats, "AT_ONCE", 2)
    for count in (5, 4, 0):
        for _ in range(count):
            store.delete(MEI, store.create(MEI, "title", SETTINGS).id)
        assert store.purge(time.time() + 1) == count
    for number in range(5):
        store.create(f"session:{number}", "title", SETTINGS)
    assert store.purge_owners("session:", time.time() + 10) == 5


def test_one_server_at_a_time_says_something_in_a_chat(store: ChatStore) -> None:
    living = {"a", "b"}
    store._alive = living.__contains__
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
    store.add(MEI, chat, replace(reply, id="4", comparison=None), "a")  # it knows its own
    living.remove("a")
    store.reopen(MEI, cut, "b")


def test_the_head(store: ChatStore) -> None:
    chat = begun(store)
    question = chat.head or ""
    assert store.chat(MEI, chat.id).head == f"q-{chat.id}"
    store.add(MEI, chat.id, replied("a", question, "c"))
    assert store.chat(MEI, chat.id).head == question
    store.add(MEI, chat.id, replied("b", question))
    assert store.chat(MEI, chat.id).head == "b"
    store.set_head(MEI, chat.id, "a")
    assert store.chat(MEI, chat.id).head == "a"
    for elsewhere in (begun(store).head, "none"):
        with pytest.raises(UnknownChatError):
            store.set_head(MEI, chat.id, elsewhere)


def test_a_parent_is_in_the_same_chat(store: ChatStore) -> None:
    chat, elsewhere = begun(store), begun(store)
    for parent in (elsewhere.head, "none", "new"):
        with pytest.raises(UnknownChatError):
            store.add(MEI, chat.id, asked("new", parent))
    assert "new" not in store.messages(MEI, chat.id)
    assert store.chat(MEI, chat.id) == chat


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
def test_search_in_messages_and_titles(store: ChatStore, query: str, found: bool) -> None:
    text = "Hello 春晓 GRÜẞE Привет 🦙 100% snake_case a\\b"
    chat = store.create(MEI, "in a message", SETTINGS)
    store.add(MEI, chat.id, asked("q"))
    store.add(MEI, chat.id, asked("q2", "q", text))
    store.create(MEI, text, SETTINGS)
    store.create(OTHER, text, SETTINGS)
    assert titles(store, query) == ([text, "in a message"] if found else [])


def test_search_finds_nothing_where_signs_stand_for_others(store: ChatStore) -> None:
    store.create(MEI, "plain", SETTINGS)
    for query in ("%", "_", "\\", "p%n", "pla_n"):
        assert titles(store, query) == []


@pytest.mark.parametrize("query", ["x" * 100_000, "é" * 100_000, "%" * 100_000])
def test_a_search_for_a_whole_book(store: ChatStore, query: str) -> None:
    store.create(MEI, "short", SETTINGS)
    assert titles(store, query) == []


@pytest.mark.parametrize("query", ["找不到", "zebra", "nicht übrig"])
def test_search_is_quick(store: ChatStore, query: str) -> None:
    """In 500 chats of 50 messages; the bound leaves room for a machine that is busy."""
    text = "The quick brown fox 敏捷的棕色狐狸 " * 15
    chats = tuple(
        ImportedChat(
            Chat(f"c{chat}", f"Title {chat}", 1.0, 1.0, None, SETTINGS),
            tuple(asked(f"{chat}-{number}", None, text) for number in range(50)),
        )
        for chat in range(500)
    )
    store.import_chats(MEI, Imported(chats))
    began = time.perf_counter()
    assert store.chats(MEI, query) == []
    assert time.perf_counter() - began < 1.0


def test_text_that_streams(store: ChatStore) -> None:
    chat = begun(store)
    reply = replied("a", chat.head or "")
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


def test_a_reply_may_end_after_its_chat_is_gone(store: ChatStore) -> None:
    chat = begun(store)
    store.add(MEI, chat.id, replied("a", chat.head or ""), server="me")
    store.delete(MEI, chat.id)
    store.save_text("a", "went on", "me")
    store.restore(MEI, chat.id)
    assert store.message(MEI, "a")[1].text == "went on"
    store.delete(MEI, chat.id)
    store.purge(time.time() + 1)
    store.save_text("a", "more", "me")
    store.finish(replied("a", ""), "me")


def test_what_dead_servers_wrote_is_interrupted(store: ChatStore) -> None:
    chat = begun(store)
    for name, server in (("a", "dead"), ("b", "alive"), ("c", ""), ("d", "dead")):
        store.add(MEI, chat.id, replied(name, chat.head or ""), server)
        store.save_text(name, f"text {name}", server)
    store.finish(replace(replied("d", ""), state=MessageState.DONE), "dead")
    assert store.interrupt(lambda server: server == "alive") == 2
    states = {name: m.state for name, m in store.messages(MEI, chat.id).items() if len(name) == 1}
    assert states == {
        "a": MessageState.INTERRUPTED,
        "b": MessageState.STREAMING,
        "c": MessageState.INTERRUPTED,
        "d": MessageState.DONE,
    }
    assert store.message(MEI, "a")[1].text == "text a"
    assert store.interrupt(lambda server: server == "alive") == 0


def test_a_text_can_be_too_long(store: ChatStore) -> None:
    chat = begun(store)
    store.add(MEI, chat.id, asked("long", text="x" * MAX_TEXT))
    for text in ("x" * (MAX_TEXT + 1), "字" * (MAX_TEXT // 3 + 1)):
        with pytest.raises(RequestError, match="2 MB"):
            store.add(MEI, chat.id, asked("longer", text=text))
        with pytest.raises(RequestError, match="2 MB"):
            store.save_snippet(MEI, Snippet("s", text))
    assert "longer" not in store.messages(MEI, chat.id)


def test_halves_of_characters(store: ChatStore) -> None:
    """Browsers can send them. What is kept has to be sendable."""
    chat = store.create(MEI, "a\ud83d", ChatSettings(system="\ud83d"))
    store.add(MEI, chat.id, asked("q", text="b\ud83d"))
    store.rename(MEI, chat.id, "c\ud83d")
    assert store.message(MEI, "q")[1].text == "b�"
    assert store.chat(MEI, chat.id).title == "c�"
    assert store.chat(MEI, chat.id).settings.system == "�"
    with pytest.raises(RequestError, match="half a character"):
        store.chat(MEI, "\ud83d")


def test_one_vote_for_each_comparison(store: ChatStore) -> None:
    chat = begun(store)
    for name, compared in (("a", "c1"), ("b", "c1"), ("x", "c2")):
        store.add(MEI, chat.id, replied(name, chat.head or "", compared))
    store.vote(MEI, Vote("c1", chat.id, "a", 1.0))
    store.vote(MEI, Vote("c2", chat.id, None, 2.0))
    last = Vote("c1", chat.id, "b", 3.0)
    store.vote(MEI, last)
    assert store.votes(MEI) == [Vote("c2", chat.id, None, 2.0), last]
    assert store.votes(MEI, chat.id) == store.votes(MEI)
    assert store.votes(MEI, begun(store).id) == []
    for comparison, winner in (("c1", "x"), ("c1", "none"), ("none", None), ("none", "a")):
        with pytest.raises(UnknownChatError):
            store.vote(MEI, Vote(comparison, chat.id, winner, 4.0))
    assert len(store.votes(MEI)) == 2


def test_snippets_and_presets(store: ChatStore) -> None:
    for name, text in (("b", "1"), (" A ", "2"), ("b", "3")):
        store.save_snippet(MEI, Snippet(name, text))
    assert store.snippets(MEI) == ["A", "b"]
    assert [store.snippet(MEI, name) for name in ("A", "b", "none")] == ["2", "3", ""]
    assert store.snippet(OTHER, "A") == ""
    store.delete_snippet(MEI, "b")
    store.delete_snippet(MEI, "none")
    assert store.snippets(MEI) == ["A"]
    assert store.snippet(MEI, "b") == ""
    for name, seed in (("冷", 1), ("B", 2), ("冷", 3)):
        store.save_preset(MEI, SavedPreset(name, Sampling(seed=seed)))
    assert store.presets(MEI) == [
        SavedPreset("B", Sampling(seed=2)), SavedPreset("冷", Sampling(seed=3))
    ]  # fmt: skip
    store.delete_preset(MEI, "B")
    assert [preset.name for preset in store.presets(MEI)] == ["冷"]


def test_there_is_room_for_so_many(store: ChatStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each open tab is told of them every second."""
    monkeypatch.setattr(library, "MAX_ITEMS_PER_OWNER", 2)

    def keep(name: str, owner: str = MEI) -> None:
        store.save_snippet(owner, Snippet(name, "text"))
        store.save_preset(owner, SavedPreset(name, Sampling()))

    for name in ("a", "b", "b"):
        keep(name)
    with pytest.raises(RequestError, match="no room for more than 2"):
        store.save_snippet(MEI, Snippet("c", "text"))
    with pytest.raises(RequestError, match="no room for more than 2"):
        store.save_preset(MEI, SavedPreset("c", Sampling()))
    keep("c", OTHER)
    store.delete_snippet(MEI, "a")
    store.delete_preset(MEI, "a")
    keep("c")
    assert store.snippets(MEI) == ["b", "c"]


@pytest.mark.parametrize("name", ["", "  ", "x" * 61])
def test_names_that_are_none(store: ChatStore, name: str) -> None:
    with pytest.raises(RequestError):
        store.save_snippet(MEI, Snippet(name, "text"))
    with pytest.raises(RequestError):
        store.save_preset(MEI, SavedPreset(name, Sampling()))


def test_chats_from_a_file_are_kept_all_or_none(store: ChatStore) -> None:
    messages = (asked("q"), replied("a", "q", "c"), replied("b", "q", "c"))
    good = ImportedChat(
        Chat("1", "one", 1.0, 2.0, "b", SETTINGS), messages, (Vote("c", "1", "b", 3.0),)
    )
    again = ImportedChat(Chat("2", "two", 1.0, 2.0, None, SETTINGS), messages[:1])
    with pytest.raises(StoreError):
        store.import_chats(MEI, Imported((good, again)))
    assert store.chats(MEI) == []
    assert store.import_chats(MEI, Imported((good,))) == [good.chat] == store.chats(MEI)
    assert tuple(store.messages(MEI, "1").values()) == messages
    assert store.votes(MEI) == list(good.votes)
    long = ImportedChat(again.chat, (asked("long", text="x" * (MAX_TEXT + 1)),))
    with pytest.raises(RequestError):
        store.import_chats(MEI, Imported((long,)))


def test_many_threads(store: ChatStore) -> None:
    """Nothing is lost, and nothing is seen half."""
    problems: list[BaseException] = []

    def write(number: int) -> None:
        try:
            chat = begun(store, title=str(number))
            for count in range(20):
                parent = store.chat(MEI, chat.id).head
                store.add(MEI, chat.id, asked(f"{number}-{count}", parent))
            assert len(store.messages(MEI, chat.id)) == 21
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert len(store.chats(MEI)) == 8


def test_two_stores_of_one_database(store: ChatStore, open_chat_store: OpenChatStore) -> None:
    chat = begun(store)
    open_chat_store().add(MEI, chat.id, asked("other", chat.head))
    assert list(store.messages(MEI, chat.id)) == [chat.head, "other"]


def test_several_processes_write_at_once(open_chat_store: OpenChatStore) -> None:
    """Each its own connection: a change that begins with a look waits before it looks."""
    problems: list[BaseException] = []

    def write(store: ChatStore, name: str, chat: str) -> None:
        try:
            for count in range(50):
                store.add(MEI, chat, asked(f"{name}-{count}"))
        except BaseException as error:
            problems.append(error)

    a, b, c = open_chat_store(), open_chat_store(), open_chat_store()
    chat = a.create(MEI, "title", SETTINGS).id
    threads = [
        threading.Thread(target=write, args=(store, name, chat))
        for name, store in {"a": a, "b": b, "c": c}.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert len(a.messages(MEI, chat)) == 150


def test_after_the_end(store: ChatStore) -> None:
    store.close()
    store.close()
    with pytest.raises(StoreError, match="cannot be read"):
        store.chats(MEI)
    with pytest.raises(StoreError, match="cannot be saved"):
        store.create(MEI, "late", SETTINGS)


WRITE = """
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
def test_what_was_said_survives_a_kill(address: str, open_chat_store: OpenChatStore) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", WRITE, address], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    with child.stdout:
        for line in child.stdout:
            if line == "200\n":
                break
        child.send_signal(signal.SIGKILL)
        said = [200, *(int(line) for line in child.stdout if line.endswith("\n"))]
    child.wait(timeout=30)
    store = open_chat_store()
    (chat,) = store.chats("mei")
    messages = store.messages("mei", chat.id)
    assert len(messages) - 1 in (said[-1] + 1, said[-1] + 2)
    assert len(messages["a"].text) >= said[-1]
    assert store.interrupt(lambda server: False) == 1
    if "://" not in address:
        with store.home.reading() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"


def test_chats_of_visitors_without_cookies_go(store: ChatStore) -> None:
    for owner in ("session:abc", "session:new", "browser:session:"):
        store.create(owner, "title", ChatSettings())
    assert store.purge_owners("session:", time.time() + 10) == 2
    assert store.purge_owners("session:", time.time() + 10) == 0
    store.create("session:abc", "title", ChatSettings())
    assert store.purge_owners("session:", time.time() - 10) == 0
    assert len(store.chats("browser:session:")) == 1


def test_a_living_server_that_was_taken_for_dead(store: ChatStore) -> None:
    """What it writes mends the mistake, unless somebody has taken its reply up."""
    chat = begun(store)
    reply = replied("a", chat.head or "")
    store.add(MEI, chat.id, reply, "me")
    for write in (
        lambda: store.save_text("a", "more", "me"),
        lambda: store.save_runs("a", (RUN,), "me"),
    ):
        assert store.interrupt(lambda server: False) == 1
        assert store.message(MEI, "a")[1].state is MessageState.INTERRUPTED
        write()
        assert store.message(MEI, "a")[1].state is MessageState.STREAMING
    store.interrupt(lambda server: False)
    done = replace(reply, text="all of it", state=MessageState.DONE)
    store.finish(done, "me")
    assert store.message(MEI, "a")[1] == done
    assert store.interrupt(lambda server: False) == 0


def test_a_reply_is_written_by_who_took_it_up_last(store: ChatStore) -> None:
    chat = begun(store)
    reply = replied("a", chat.head or "")
    store.add(MEI, chat.id, reply, "one")
    store.interrupt(lambda server: False)
    store.reopen(MEI, reply, "two")
    store.save_text("a", "late", "one")
    store.finish(replace(reply, text="late", state=MessageState.DONE), "one")
    store.save_text("a", "now", "two")
    assert store.message(MEI, "a")[1] == replace(reply, text="now")


def test_one_of_two_takes_a_reply_up(open_chat_store: OpenChatStore) -> None:
    stores = [open_chat_store(), open_chat_store()]
    chat = begun(stores[0])
    for number in range(30):
        reply = replace(replied(f"a{number}", chat.head or ""), state=MessageState.CUT)
        stores[0].add(MEI, chat.id, reply)
        taken: list[bool] = []

        def take(store: ChatStore, reply: ChatMessage, taken: list[bool]) -> None:
            try:
                store.reopen(MEI, reply, "server")
                taken.append(True)
            except RequestError:
                taken.append(False)

        threads = [threading.Thread(target=take, args=(one, reply, taken)) for one in stores]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(taken) == [False, True]


def test_nothing_is_kept_with_a_nul(store: ChatStore) -> None:
    """PostgreSQL could not; a model can say it, and a page can send it."""
    chat = store.create(MEI, "a\0b", ChatSettings(system="c\0"))
    store.add(MEI, chat.id, asked("q", text="d\0e"))
    store.save_snippet(MEI, Snippet("n\0", "t\0"))
    store.save_preset(MEI, SavedPreset("p\0", Sampling(stop=("s\0",))))
    assert titles(store, "a\0B") == ["a�b"]
    assert store.chat(MEI, chat.id).settings.system == "c�"
    assert store.message(MEI, "q")[1].text == "d�e"
    assert (store.snippets(MEI), store.snippet(MEI, "n�")) == (["n�"], "t�")
    assert [preset.name for preset in store.presets(MEI)] == ["p�"]
    store.rename(MEI, chat.id, "r\0")
    reply = replied("a", "q")
    store.add(MEI, chat.id, reply, "me")
    store.save_text("a", "m\0", "me")
    assert store.message(MEI, "a")[1].text == "m�"
    store.finish(replace(reply, text="f\0", error="e\0", state=MessageState.FAILED), "me")
    assert store.message(MEI, "a")[1].text == "f�"
    for call in FOR_OWNERS.values():
        with pytest.raises(UnknownChatError):
            call(store, MEI, "\0", "\0")
    assert store.snippet(MEI, "\0") == ""
    store.delete_snippet(MEI, "\0")
    store.delete_preset(MEI, "\0")


def test_no_sentence_and_no_error_holds_what_people_wrote(store: ChatStore) -> None:
    chat, secret = begun(store), "密语"
    with pytest.raises(StoreError) as caught:
        store.add(MEI, chat.id, asked(chat.head or "", text=secret))
    assert secret not in "".join(traceback.format_exception(caught.value))
