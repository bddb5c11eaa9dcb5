"""Attacks on the chats that are kept: ids, files and amounts that a hostile visitor sends."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from model.types import LinlyError, RequestError
from tests.web.chats.conftest import address as address
from tests.web.chats.conftest import open_chat_store as open_chat_store
from tests.web.chats.conftest import server as server
from tests.web.chats.conftest import store as store
from tests.web.chats.store.test_chat_store import FOR_OWNERS
from web.chats.store import chats, import_writer, usage
from web.chats.store.chat_store import ChatStore
from web.chats.store.errors import StoreError, UnknownChatError
from web.chats.store.models import Chat, ChatMessage, ChatSettings, MessageState, Snippet
from web.chats.store.sqlite import SqliteFile
from web.chats.titles import MAX_TITLE
from web.chats.transfer.export_writer import export_chats
from web.chats.transfer.import_file import ImportedChat, from_json, read_chats

ANNA, MALLORY = "browser:anna", "browser:mallory"
LONG = 5_000_000


def begun(store: ChatStore, owner: str = ANNA) -> Chat:
    """A chat with a question."""
    chat = store.create(owner, "title", ChatSettings())
    store.add(owner, chat.id, ChatMessage(f"q-{chat.id}", None, "user", "secret"))
    return store.chat(owner, chat.id)


def exported(chat: dict[str, Any]) -> str:
    return json.dumps({"format": "linly-chats", "version": 1, "chats": [chat]})


def native(**changes: Any) -> dict[str, Any]:
    message = {"id": "q", "role": "user", "text": "hello", "parent": None}
    return {"title": "t", "messages": [message], "head": "q"} | changes


def with_message(**changes: Any) -> str:
    value = native()
    value["messages"][0] |= changes
    return exported(value)


@pytest.mark.parametrize("name", FOR_OWNERS)
@pytest.mark.parametrize(
    "known_as", ["x" * LONG, "\0" * 300, "字" * 100_000, "' OR 1=1 --", "%", "_" * 32]
)
def test_ids_that_nothing_has(store: ChatStore, name: str, known_as: str) -> None:
    begun(store)
    with pytest.raises(UnknownChatError):
        FOR_OWNERS[name](store, MALLORY, known_as, known_as)
    with pytest.raises(UnknownChatError):
        FOR_OWNERS[name](store, ANNA, known_as, known_as)


def test_long_ids_do_not_travel_to_the_database(tmp_path: Path) -> None:
    longest = 0

    def watch(connection: Any, cursor: Any, statement: str, values: Any, *rest: Any) -> None:
        nonlocal longest
        longest = max([longest, *(len(value) for value in values if isinstance(value, str))])

    with closing(ChatStore(tmp_path / "chats.db")) as store:
        assert isinstance(store.home, SqliteFile)
        for engine in (store.home._readers, store.home._writer):
            event.listen(engine, "before_cursor_execute", watch)
        for call in FOR_OWNERS.values():
            for known_as in ("x" * LONG, "\ud83d" * LONG):
                with pytest.raises(UnknownChatError):
                    call(store, "session:" + known_as, known_as, known_as)
        assert store.chats(ANNA, "x" * LONG) == []
        assert store.snippet(ANNA, "x" * LONG) == ""
        store.delete_snippet(ANNA, "x" * LONG)
        store.delete_preset(ANNA, "x" * LONG)
    assert 0 < longest <= 300


def test_long_names_of_owners_are_told_apart(store: ChatStore) -> None:
    """A page makes its session's name up."""
    long = "session:" + "x" * 1000
    chat = store.create(long + "a", "mine", ChatSettings())
    assert store.chat(long + "a", chat.id) == chat
    assert store.chats(long + "b") == store.chats(long) == []


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10_000 + "]" * 10_000,
        '{"messages":' * 10_000 + "[]" + "}" * 10_000,
        '{"messages": [{"role": "user", "content": ' + "[" * 10_000 + "]" * 10_000 + "}]}",
        exported(native(settings={"sampling": {"stop": []}}))[:-1] + ', "x": ' + "[" * 50_000,
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
def test_files_that_are_made_to_take_long(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        from_json(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["created", "updated"])
@pytest.mark.parametrize("value", ["-1", "-1e308", "NaN", "Infinity", "1e999", '"1"', "true", "[]"])
def test_times_that_are_none(field: str, value: str) -> None:
    text = exported(native(**{field: "TIME"})).replace('"TIME"', value)
    with pytest.raises(RequestError):
        from_json(text)
    text = with_message(created="TIME").replace('"TIME"', value)
    with pytest.raises(RequestError):
        from_json(text)


@pytest.mark.parametrize("value", ["1" + "0" * 400, "1e308", "9" * 4000])
def test_times_to_come_are_now(value: str) -> None:
    text = exported(native(created="TIME")).replace('"TIME"', value)
    assert from_json(text).chats[0].chat.created <= time.time()


def test_ids_of_another_owner_in_a_file(store: ChatStore) -> None:
    """They are names within the file: nothing of the other owner is read or changed."""
    chat = begun(store)
    reply = ChatMessage("a", chat.head, "assistant", "secret too", comparison="c")
    store.add(ANNA, chat.id, reply)
    before = store.chat(ANNA, chat.id), store.messages(ANNA, chat.id)
    question = {"id": chat.head, "role": "user", "text": "mine", "parent": None}
    answer = {"id": "a", "role": "assistant", "text": "mine", "parent": chat.head,
              "comparison": "c", "repeats": "a", "chat": chat.id, "server": "x"}  # fmt: skip
    value = native(
        messages=[question, answer], head="a", votes=[{"comparison": "c", "winner": "a"}]
    ) | {"id": chat.id, "owner": ANNA}
    (kept,) = store.import_chats(MALLORY, read_chats(exported(value)))
    assert kept.id != chat.id
    assert {chat.id, chat.head, "a"}.isdisjoint(store.messages(MALLORY, kept.id))
    assert (store.chat(ANNA, chat.id), store.messages(ANNA, chat.id)) == before
    assert store.votes(ANNA) == []
    assert "secret" not in "".join(export_chats(store, MALLORY))
    for parent in (chat.head, "a"):  # and what the file itself does not have is refused
        with pytest.raises(RequestError, match="not there"):
            store.import_chats(MALLORY, read_chats(with_message(parent=parent)))


@pytest.mark.parametrize(
    ("changes", "says"),
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
def test_messages_that_are_too_much(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        from_json(with_message(**changes))


def test_settings_that_are_too_much() -> None:
    for text in (
        exported(native(settings={"system": "x" * 200_000})),
        exported(native(settings={"adapter": "x" * 200_000})),
        json.dumps({"system": "x" * 200_000, "messages": [{"role": "user", "content": "x"}]}),
        json.dumps({"messages": [{"role": "system", "content": "x" * 200_000},
                                 {"role": "user", "content": "x"}]}),
    ):  # fmt: skip
        with pytest.raises(RequestError):
            from_json(text)


def test_long_titles(store: ChatStore) -> None:
    """They are cut in a file, and refused from a person; none is split into a million words."""
    for title in ("x" * 300_000, "a " * 2_000_000, "\n" * 300_000 + "x", "\ud83d\0" * 150_000):
        (kept,) = store.import_chats(ANNA, read_chats(exported(native(title=title))))
        assert len(kept.title) <= MAX_TITLE
        assert store.chat(ANNA, kept.id).title == kept.title
        with pytest.raises(RequestError, match="has over 200 characters"):
            store.rename(ANNA, kept.id, title)
    foreign = {"messages": [{"role": "user", "content": "\n" * 1_000_000 + "x"}]}
    assert store.import_chats(ANNA, read_chats(json.dumps(foreign)))[0].title == "…"


def test_half_characters_and_nul_in_a_file(store: ChatStore) -> None:
    text = with_message(text="a\ud83d\0b", error="\udc00\0", id="\ud83d", runs=[
        {"base": "\ud83d\0", "settings": {"system": "\udc00"}}])  # fmt: skip
    text = text.replace('"head": "q"', '"head": "\\ud83d"')
    (kept,) = store.import_chats(ANNA, read_chats(text))
    (message,) = store.messages(ANNA, kept.id).values()
    assert (message.text, message.error) == ("a��b", "��")
    assert message.runs[0].base == "��"
    assert "".join(export_chats(store, ANNA)).encode()


def test_an_import_cannot_make_a_reply_stream(store: ChatStore) -> None:
    """Its chat would be busy for ever."""
    (kept,) = store.import_chats(
        ANNA, read_chats(with_message(state="streaming", role="assistant"))
    )
    (message,) = store.messages(ANNA, kept.id).values()
    assert message.state is MessageState.INTERRUPTED
    assert store.streaming(kept.id) == []


def test_chats_of_a_running_import_are_not_seen(store: ChatStore) -> None:
    """By nobody, and by no means; afterwards they are there at once."""
    seen: list[str] = []

    def reading() -> Iterator[ImportedChat]:
        for one in read_chats(json.dumps([json.loads(exported(native()))] * 4)):
            yield one
            with store.home.reading() as connection:
                ids = connection.exec_driver_sql("SELECT id FROM chats").scalars().all()
            seen.extend(ids)
            for known_as in ids:
                for call in FOR_OWNERS.values():
                    with pytest.raises(UnknownChatError):
                        call(store, ANNA, known_as, "none")
            assert store.chats(ANNA) == store.chats(ANNA, "t") == list(store.each_chat(ANNA)) == []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_writer, "MAX_ROWS", 2)
        kept = store.import_chats(ANNA, reading())
    assert seen
    assert {chat.id for chat in store.chats(ANNA)} == {chat.id for chat in kept}
    assert len(kept) == 4


@pytest.mark.parametrize("text", ["]", ", 7]", ', {"messages": []}]', ""])
def test_a_file_that_is_wrong_at_its_end_leaves_nothing(
    store: ChatStore, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(import_writer, "MAX_ROWS", 10)
    file = json.dumps([json.loads(exported(native()))] * 30)[:-1] + (text if text != "]" else "]]")
    with pytest.raises(RequestError):
        store.import_chats(ANNA, read_chats(file))
    with store.home.reading() as connection:
        assert connection.exec_driver_sql("SELECT id FROM chats").all() == []
        assert connection.exec_driver_sql("SELECT id FROM messages").all() == []


def test_an_import_that_was_killed_is_purged(
    store: ChatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed() -> Iterator[ImportedChat]:
        yield from read_chats(exported(native()))
        raise KeyboardInterrupt

    monkeypatch.setattr(import_writer, "MAX_ROWS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_destroy", lambda *_: 0)
        with pytest.raises(KeyboardInterrupt):
            store.import_chats(ANNA, killed())
    assert store.chats(ANNA) == []
    assert store.purge(time.time() - 60) == 0  # another server's import may be running
    assert store.purge(time.time() + 1) == 1


def test_others_write_while_a_file_is_imported(
    store: ChatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was one transaction: what streamed was not saved until its end."""
    monkeypatch.setattr(import_writer, "MAX_ROWS", 10)
    rows: list[int] = []
    insert = store._insert
    chat = begun(store, MALLORY)

    def watched(batch: dict[str, list[Any]]) -> None:
        rows.append(sum(map(len, batch.values())))
        insert(batch)
        store.add(MALLORY, chat.id, ChatMessage(f"m{len(rows)}", None, "user", "meanwhile"))

    monkeypatch.setattr(store, "_insert", watched)
    store.import_chats(ANNA, read_chats(json.dumps([json.loads(exported(native()))] * 30)))
    assert rows == [10] * 6
    assert len(store.messages(MALLORY, chat.id)) == 7


def test_owners_have_so_many_chats(store: ChatStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MAX_CHATS_PER_OWNER", 3)
    monkeypatch.setattr(usage, "RECHECK_SECONDS", 0.0)
    made = [store.create(ANNA, "title", ChatSettings()).id for _ in range(3)]
    for attempt in (
        lambda: store.create(ANNA, "title", ChatSettings()),
        lambda: store.import_chats(ANNA, read_chats(exported(native()))),
    ):
        with pytest.raises(RequestError, match="You have 3 chats, and no more are kept"):
            attempt()
    assert len(store.chats(ANNA)) == 3
    store.add(ANNA, made[0], ChatMessage("q", None, "user", "there is room for messages"))
    begun(store, MALLORY)
    store.delete(ANNA, made[0])
    store.import_chats(ANNA, read_chats(exported(native())))
    with pytest.raises(RequestError, match="You have 3 chats"):
        store.create(ANNA, "title", ChatSettings())
    with store.home.reading() as connection:
        owners = connection.exec_driver_sql("SELECT owner FROM chats").scalars().all()
    assert set(owners) == {ANNA, MALLORY}


def test_owners_have_so_much_room(store: ChatStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MAX_BYTES_PER_OWNER", 1_000_000)
    monkeypatch.setattr(usage, "RECHECK_SECONDS", 0.0)
    chat = begun(store)
    store.add(ANNA, chat.id, ChatMessage("q", None, "user", "字" * 200_000))
    large = ChatMessage("q2", None, "user", "字" * 200_000)
    file = {"messages": [{"role": "user", "content": large.text}]}
    for attempt in (
        lambda: store.add(ANNA, chat.id, large),
        lambda: store.save_snippet(ANNA, Snippet("s", large.text)),
        lambda: store.import_chats(ANNA, read_chats(json.dumps(file))),
        lambda: store.set_settings(ANNA, chat.id, ChatSettings(system="x" * 600_000)),
    ):
        with pytest.raises(RequestError, match="take up 1 MB, and no more are kept") as caught:
            attempt()
    assert caught.value.remedy == "Delete some first."
    assert (
        set(store.messages(ANNA, chat.id)) == {"q", chat.head or ""}
        or len(store.messages(ANNA, chat.id)) == 2
    )
    other = begun(store, MALLORY)
    store.add(MALLORY, other.id, large)
    store.delete(ANNA, chat.id)
    assert store.import_chats(ANNA, read_chats(json.dumps(file)))


def test_what_is_deleted_again_and_again_does_not_fill_the_disk(
    store: ChatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is kept for days, so that it can be brought back."""
    monkeypatch.setattr(usage, "MAX_CHATS_PER_OWNER", 2)
    monkeypatch.setattr(chats, "UNDO_SECONDS", -1.0)
    for _ in range(12):
        store.delete(ANNA, begun(store).id)
    store.delete(MALLORY, begun(store, MALLORY).id)
    with store.home.reading() as connection:
        kept = connection.exec_driver_sql("SELECT count(*) FROM chats").scalar_one()
    assert kept <= 2 + 2 + 1


def test_usage_is_measured_anew(store: ChatStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies are not counted while they stream."""
    chat = begun(store)
    reply = ChatMessage("a", chat.head, "assistant", "", MessageState.STREAMING)
    store.add(ANNA, chat.id, reply, "me")
    store.save_text("a", "x" * 500_000, "me")
    monkeypatch.setattr(usage, "MAX_BYTES_PER_OWNER", 400_000)
    store.add(ANNA, chat.id, ChatMessage("q2", None, "user", "?"))
    monkeypatch.setattr(usage, "MEASURE_SECONDS", -1.0)
    with pytest.raises(RequestError, match="no more are kept"):
        store.add(ANNA, chat.id, ChatMessage("q3", None, "user", "?"))


def test_usage_of_so_many_owners_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MAX_OWNERS", 3)
    cache = usage.UsageCache()
    for number in range(10):
        cache.keep(str(number), usage.StorageUsage(0, 0, 0, 0, time.monotonic()))
    assert len(cache._known) == 3


def test_one_visitor_does_not_keep_the_others_out(tmp_path: Path) -> None:
    """Searches, exports and imports of one, from many threads at once."""
    with closing(ChatStore(tmp_path / "chats.db")) as store, ExitStack() as stack:
        file = json.dumps([json.loads(exported(native()))] * 50)
        store.import_chats(MALLORY, read_chats(file))
        stop, problems = threading.Event(), list[BaseException]()

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
                    problems.append(error)

        threads = [threading.Thread(target=attack, args=(number,)) for number in range(9)]
        stack.callback(lambda: [thread.join() for thread in threads])
        stack.callback(stop.set)
        for thread in threads:
            thread.start()
        for _ in range(5):
            chat = begun(store)
            assert store.messages(ANNA, chat.id)
            store.check()
    assert not problems


def test_no_error_tells_what_others_keep(store: ChatStore) -> None:
    """An id that is taken is no way to find out what there is."""
    chat = begun(store)
    mine = begun(store, MALLORY)
    with pytest.raises(StoreError) as caught:
        store.add(MALLORY, mine.id, ChatMessage(chat.head or "", None, "user", "x"))
    assert "secret" not in str(caught.value)
    assert ANNA not in str(caught.value)
