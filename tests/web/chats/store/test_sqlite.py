"""The SQLite file: how it is created and opened, its errors, its readers, and checks."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from web.chats.store import sqlite
from web.chats.store.chat_store import ChatStore
from web.chats.store.errors import StoreError
from web.chats.store.migrations import MIGRATIONS
from web.chats.store.models import ChatMessage, ChatSettings
from web.chats.store.sqlite import open_database


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chats.db"


@pytest.fixture
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "OPEN_SECONDS", 0.1)


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        number: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return number


def schema(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


def begin_chat(store: ChatStore) -> str:
    """Stores a chat with a message, and returns its id."""
    chat = store.create("mei", "A chat", ChatSettings()).id
    store.add("mei", chat, ChatMessage("q", None, "user", "?"))
    return chat


def test_new_file_is_created_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "chats.db"
    with closing(open_database(path)) as connection:
        pragmas = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {
        "journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "busy_timeout": 500
    }  # fmt: skip
    assert version(path) == len(MIGRATIONS)


@pytest.mark.skipif(sys.platform == "win32", reason="access rights differ there")
def test_only_its_owner_can_read_the_file(path: Path) -> None:
    with closing(open_database(path)):
        files = list(path.parent.iterdir())
        assert len(files) == 3  # with the two of WAL
        assert all(stat.S_IMODE(file.stat().st_mode) & 0o077 == 0 for file in files)


def test_empty_file_is_migrated(path: Path) -> None:
    path.touch()
    open_database(path).close()
    assert version(path) == len(MIGRATIONS)


def test_refused_file_is_not_changed(path: Path) -> None:
    """Not even its journal mode: it may be another program's, or a newer version's."""
    open_database(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA user_version = 99")
    another = path.with_name("another.db")
    with closing(sqlite3.connect(another)) as connection:
        connection.execute("CREATE TABLE bookmarks (x)")
    for file in (path, another):
        before = file.read_bytes()
        with pytest.raises(StoreError):
            open_database(file)
        assert file.read_bytes() == before


def test_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_text("These are no chats, but a text that is longer than a header. " * 20)
    with pytest.raises(StoreError, match="is not a database") as caught:
        open_database(path)
    assert (caught.value.code, caught.value.exit_status) == ("store", 1)
    assert "Move it away" in caught.value.remedy


def test_damaged_file_is_refused(path: Path) -> None:
    open_database(path).close()
    content = bytearray(path.read_bytes())
    content[100:] = b"\xff" * (len(content) - 100)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        open_database(path)


def test_folder_in_place_of_the_file_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StoreError, match="cannot be written"):
        open_database(path)


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be saved in") as caught:
        open_database(tmp_path / "file" / "chats.db")
    assert "writable" in caught.value.remedy


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="nothing is read-only to root"
)
def test_read_only_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o500)
    with pytest.raises(StoreError, match="cannot be saved in"):
        open_database(folder / "chats.db")


def test_file_that_cannot_be_created_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a read-only folder, also where root runs the tests."""

    def refuse(self: Path, mode: int = 0, exist_ok: bool = True) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(StoreError, match="Permission denied"):
        open_database(path)


def test_read_only_file_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when there is nothing to migrate."""
    open_database(path).close()
    connect = sqlite3.connect
    uri = f"{path.as_uri()}?mode=ro"
    monkeypatch.setattr(sqlite3, "connect", lambda path, **kwargs: connect(uri, uri=True, **kwargs))
    with pytest.raises(StoreError, match="cannot be written"):
        open_database(path)


@pytest.mark.usefixtures("short_wait")
def test_locked_file_is_refused(path: Path) -> None:
    open_database(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another program is using") as caught:
            open_database(path)
    assert "Close that program" in caught.value.remedy


def test_opening_waits_for_a_short_lock(path: Path) -> None:
    opened: list[sqlite3.Connection] = []
    thread = threading.Thread(target=lambda: opened.append(open_database(path)))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        thread.start()
        thread.join(0.3)
        was_opened = bool(opened)
        other.execute("ROLLBACK")
    thread.join(30)
    assert not was_opened
    (connection,) = opened
    connection.close()


class RefusingConnection(sqlite3.Connection):
    """Is locked for its first `refusals` statements."""

    refusals = 0

    def execute(self, query: str, *values: Any) -> sqlite3.Cursor:
        self.refusals -= 1
        if self.refusals < 0:
            return super().execute(query, *values)
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorcode = sqlite3.SQLITE_BUSY
        raise error


@pytest.mark.usefixtures("short_wait")
def test_use_wal_retries_for_a_bounded_time(path: Path) -> None:
    """If two processes switch the journal at once, SQLite refuses one of them without a wait."""
    with closing(sqlite3.connect(path, factory=RefusingConnection)) as connection:
        connection.refusals = 2
        sqlite.use_wal(connection)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        connection.refusals = 1000
        with pytest.raises(sqlite3.OperationalError):
            sqlite.use_wal(connection)


FIRST_VERSION = """
    PRAGMA application_id = 1281977964;
    CREATE TABLE chats (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,
        title TEXT NOT NULL, named INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL,
        updated REAL NOT NULL, deleted REAL, head TEXT, settings TEXT NOT NULL
    );
    CREATE TABLE messages (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,
        chat TEXT NOT NULL REFERENCES chats (id) ON DELETE CASCADE, parent TEXT,
        role TEXT NOT NULL, state TEXT NOT NULL, created REAL NOT NULL, error TEXT NOT NULL,
        comparison TEXT, repeats TEXT, server TEXT NOT NULL DEFAULT '', runs TEXT NOT NULL,
        text TEXT NOT NULL
    );
    CREATE TABLE votes (
        chat TEXT NOT NULL REFERENCES chats (id) ON DELETE CASCADE, comparison TEXT NOT NULL,
        winner TEXT, created REAL NOT NULL, PRIMARY KEY (chat, comparison)
    );
    CREATE TABLE snippets (
        owner TEXT NOT NULL, name TEXT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (owner, name)
    );
    CREATE TABLE presets (
        owner TEXT NOT NULL, name TEXT NOT NULL, sampling TEXT NOT NULL, PRIMARY KEY (owner, name)
    );
    PRAGMA user_version = 1;
    INSERT INTO chats VALUES (7, 'c', 'mei', '旧', 1, 1.5, 2.5, NULL, 'a',
        '{"adapter": "poet", "scale": 0.5, "template": ""}');
    INSERT INTO messages VALUES
        (3, 'q', 'c', NULL, 'user', 'done', 1.5, '', NULL, NULL, '', '[]', 'a NUL' || char(0)),
        (4, 'a', 'c', 'q', 'assistant', 'streaming', 1.5, '', NULL, NULL, 'dead', '[]', 'half');
    INSERT INTO snippets VALUES ('mei', 'n' || char(0), 'text');
"""


def test_file_of_the_first_version_opens_unchanged(path: Path) -> None:
    """Written here as SQL, so that a change of the program does not change the file, too."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(FIRST_VERSION)
    before = schema(path)
    with closing(ChatStore(path)) as store:
        (chat,) = store.chats("mei")
        assert (chat.title, chat.created, chat.settings) == ("旧", 1.5, ChatSettings("poet", 0.5))
        assert store.mark_interrupted(lambda server: False) == 1
        messages = store.messages("mei", "c")
        assert [message.text for message in messages.values()] == ["a NUL\0", "half"]
        store.add("mei", "c", ChatMessage("q2", "a", "user", "and now"))
        assert list(store.messages("mei", "c")) == ["q", "a", "q2"]
        (name,) = store.snippets("mei")
        assert store.snippet("mei", name) == "text"
        store.delete_snippet("mei", name)
        assert store.snippets("mei") == []
    assert schema(path) == before


def test_destroyed_text_is_gone_from_the_file(path: Path) -> None:
    with closing(ChatStore(path)) as store:
        chat = begin_chat(store)
        store.add("mei", chat, ChatMessage("secret", None, "user", "密语" * 10_000))
        store.delete("mei", chat)
        assert store.purge(time.time() + 1) == 1
    assert "密语".encode() not in path.read_bytes()


def test_full_disk_refuses_writes(path: Path) -> None:
    with closing(ChatStore(path)) as store:
        chat = begin_chat(store)
        with store.single_write() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match="cannot be saved: the disk is full") as caught:
            store.add("mei", chat, ChatMessage("big", None, "user", "x" * 100_000))
        assert caught.value.remedy == f"Free some space on the disk with {path}."
        store.rename("mei", chat, "still there")
        assert list(store.messages("mei", chat)) == ["q"]


def result_in_thread(call: Callable[[], object]) -> object:
    """Returns what a call returns or raises in a thread of its own, which must end."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert results, "it still waits"
    return results[0]


def test_reads_do_not_wait_for_a_writer(path: Path) -> None:
    """They see the rows before it. An import kept every read waiting until its end."""
    with closing(ChatStore(path)) as store:
        chat = begin_chat(store)
        with store.transaction() as connection:
            connection.exec_driver_sql("UPDATE chats SET title = 'new'")
            title = result_in_thread(lambda: store.chat("mei", chat).title)
            found = result_in_thread(lambda: store.chats("mei", "a chat")[0].title)
            assert (title, found) == ("A chat", "A chat")
        assert store.chat("mei", chat).title == "new"


def test_readers_cannot_write(path: Path) -> None:
    with closing(ChatStore(path)) as store:
        begin_chat(store)
        with pytest.raises(StoreError, match="cannot be written"), store.reading() as connection:
            connection.exec_driver_sql("DELETE FROM chats")
        assert len(store.chats("mei")) == 1


def test_writers_wait_for_a_bounded_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "TURN_SECONDS", 0.05)
    with closing(ChatStore(path)) as store:
        chat = begin_chat(store)
        with store.transaction():
            error = result_in_thread(lambda: store.rename("mei", chat, "new"))
        assert str(error) == f"The chats cannot be saved: {path} is busy. Try again in a moment."
        store.rename("mei", chat, "new")


def test_readers_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many threads read: each connection costs memory and files."""
    monkeypatch.setattr(sqlite, "TURN_SECONDS", 0.05)
    with closing(ChatStore(path)) as store:
        begin_chat(store)
        with ExitStack() as stack:
            for _ in range(sqlite.READERS):
                stack.enter_context(store.reading())
            error = result_in_thread(lambda: store.chats("mei"))
            assert isinstance(error, StoreError)
            assert "is busy" in str(error)
        assert len(store.chats("mei")) == 1


def test_file_that_replaced_the_open_one_is_not_read(path: Path) -> None:
    """A copy that the operator put back while the program runs has another journal."""
    with closing(ChatStore(path)) as store:
        begin_chat(store)
        with store.reading():  # uses the only connection that is already open
            path.rename(path.with_name("moved.db"))
            path.touch()
            error = result_in_thread(lambda: store.chats("mei"))
        assert str(error) == (
            f"The chats cannot be read: {path} was moved or deleted. "
            "Put it back, then start the program again."
        )


def test_reader_that_outlives_the_store_is_closed(path: Path) -> None:
    store = ChatStore(path)
    begin_chat(store)
    with store.reading() as connection:
        driver: Any = connection.connection.dbapi_connection
        store.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        driver.execute("SELECT 1")


def test_check_leaves_the_file_as_it_is(path: Path) -> None:
    """Also on the disk, however often it is called."""
    with closing(ChatStore(path)) as store:
        begin_chat(store)
        for _ in range(2_000):
            store.check()
        assert sum(file.stat().st_size for file in path.parent.iterdir()) < 20_000_000
    assert version(path) == len(MIGRATIONS)


def test_check_notices_a_full_disk(path: Path) -> None:
    with closing(ChatStore(path)) as store:
        begin_chat(store)
        with store.single_write() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1")
        store.check()  # existing pages can be overwritten
    with mounted(path.parent / "small") as small, closing(ChatStore(small / "chats.db")) as store:
        store.check()
        with (small / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(b"x" * 4096)

        def check_until_the_journal_grows() -> None:
            for _ in range(2_000):
                store.check()

        with pytest.raises(StoreError, match="cannot be saved: the disk"):
            check_until_the_journal_grows()
        (small / "ballast").unlink()
        store.check()


@contextmanager
def mounted(folder: Path) -> Iterator[Path]:
    """Mounts a small file system of its own."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_check_notices_a_missing_file(path: Path) -> None:
    with closing(ChatStore(path)) as store:
        begin_chat(store)
        path.unlink()
        with pytest.raises(StoreError, match="was moved or deleted") as caught:
            store.check()
        path.touch()  # another file
        with pytest.raises(StoreError, match="was moved or deleted"):
            store.check()
    assert caught.value.remedy == "Put it back, then start the program again."


def test_check_notices_a_missing_folder(tmp_path: Path) -> None:
    folder, moved = tmp_path / "data", tmp_path / "moved"
    with closing(ChatStore(folder / "chats.db")) as store:
        begin_chat(store)
        folder.rename(moved)
        with pytest.raises(StoreError, match="was moved or deleted"):
            store.check()
        moved.rename(folder)
        store.check()


def test_check_notices_a_read_only_file(path: Path) -> None:
    with closing(ChatStore(path)) as store:
        with store.single_write() as connection:
            connection.exec_driver_sql("PRAGMA query_only = ON")
        with pytest.raises(StoreError, match="cannot be written"):
            store.check()


def test_check_fails_beside_a_writer_that_does_not_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "CHECK_SECONDS", 0.05)
    with closing(ChatStore(path)) as store:
        with store.transaction():
            error = result_in_thread(store.check)
        assert isinstance(error, StoreError)
        assert "is busy" in str(error)
        store.check()
    with pytest.raises(StoreError, match="the program is shutting down"):
        store.check()
