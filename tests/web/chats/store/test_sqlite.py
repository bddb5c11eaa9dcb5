"""The SQLite file: how it becomes what this version needs, and what is its own."""

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
from string import Template
from typing import Any

import pytest

from model.config.settings import CHECKOUT
from web.chats.store import migrations, sqlite
from web.chats.store.chat_store import ChatStore
from web.chats.store.errors import StoreError
from web.chats.store.migrations import MIGRATIONS, SQLITE, statements
from web.chats.store.models import ChatMessage, ChatSettings
from web.chats.store.sqlite import open_database

LATER = (
    "CREATE TABLE counted (number INTEGER);\nINSERT INTO counted VALUES (1);",
    "INSERT INTO counted VALUES (2);",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chats.db"


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version with two more migrations."""
    monkeypatch.setattr(migrations, "MIGRATIONS", MIGRATIONS + LATER)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "OPEN_SECONDS", 0.1)


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        number: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return number


def of_version(path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file as an earlier version left it."""
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS[:number])
        open_database(path).close()


def tables(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


def test_a_new_file_and_its_folders(tmp_path: Path) -> None:
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


@pytest.mark.skipif(sys.platform == "win32", reason="rights are another matter there")
def test_only_its_owner_can_read_the_file(path: Path) -> None:
    with closing(open_database(path)):
        files = list(path.parent.iterdir())
        assert len(files) == 3  # with what WAL needs
        assert all(stat.S_IMODE(file.stat().st_mode) & 0o077 == 0 for file in files)


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("number", range(len(MIGRATIONS) + len(LATER) + 1))
def test_every_earlier_version_becomes_this_one(
    path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_version(path, number, monkeypatch)
    assert version(path) == number
    with closing(open_database(path)) as connection:
        rows = connection.execute("SELECT number FROM counted").fetchall()
    assert rows == [(1,), (2,)]
    new = path.with_name("new.db")
    open_database(new).close()
    assert tables(path) == tables(new)


def test_an_empty_file_is_version_0(path: Path) -> None:
    path.touch()
    open_database(path).close()
    assert version(path) == len(MIGRATIONS)


def test_a_migration_happens_as_a_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_database(path).close()
    broken = "CREATE TABLE half (x);\nINSERT INTO nowhere VALUES (1);"
    monkeypatch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, LATER[0], broken))
    with pytest.raises(StoreError, match="nowhere"):
        open_database(path)
    assert version(path) == len(MIGRATIONS) + 1
    assert "half" not in dict(tables(path))


def test_statements_are_told_apart() -> None:
    script = """
        CREATE TABLE a (x TEXT DEFAULT ';');
        CREATE TRIGGER t AFTER INSERT ON a BEGIN
            DELETE FROM a;
            SELECT 1;
        END;
    """
    assert len(list(statements(script, SQLITE))) == 2


def test_no_migration_is_lost_for_want_of_a_semicolon() -> None:
    for script in (*MIGRATIONS, *LATER):
        whole = Template(script).substitute(SQLITE)
        assert "".join(statements(script, SQLITE)).rstrip() == whole.rstrip()


def test_a_newer_version_is_left_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_version(path, 1, monkeypatch)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="newer version") as caught:
        open_database(path)
    assert caught.value.remedy
    assert path.read_bytes() == before


def test_another_programs_database_is_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bookmarks (x)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program's"):
        open_database(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database(path: Path) -> None:
    path.write_text("These are no chats, but a text that is longer than a header. " * 20)
    with pytest.raises(StoreError, match="is no database") as caught:
        open_database(path)
    assert (caught.value.code, caught.value.exit_status) == ("store", 1)
    assert "Move it away" in caught.value.remedy


def test_a_damaged_file(path: Path) -> None:
    open_database(path).close()
    content = bytearray(path.read_bytes())
    content[100:] = b"\xff" * (len(content) - 100)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        open_database(path)


def test_a_folder_in_place_of_the_file(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StoreError, match="cannot be written"):
        open_database(path)


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be kept in") as caught:
        open_database(tmp_path / "file" / "chats.db")
    assert "writable" in caught.value.remedy


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="nothing is read-only to root"
)
def test_a_read_only_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o500)
    with pytest.raises(StoreError, match="cannot be kept in"):
        open_database(folder / "chats.db")


def test_a_read_only_folder_even_for_root(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, mode: int = 0, exist_ok: bool = True) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(StoreError, match="Permission denied"):
        open_database(path)


def test_a_read_only_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even when nothing is to be migrated may one that cannot be written pass."""
    open_database(path).close()
    connect = sqlite3.connect
    uri = f"{path.as_uri()}?mode=ro"
    monkeypatch.setattr(sqlite3, "connect", lambda path, **rest: connect(uri, uri=True, **rest))
    with pytest.raises(StoreError, match="cannot be written"):
        open_database(path)


@pytest.mark.usefixtures("impatient")
def test_a_locked_file(path: Path) -> None:
    open_database(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another program holds") as caught:
            open_database(path)
    assert "Close that program" in caught.value.remedy


def test_a_lock_of_a_moment_is_waited_for(path: Path) -> None:
    """Also while the file is about to get its journal, for which SQLite does not wait."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        timer = threading.Timer(0.3, lambda: other.execute("ROLLBACK"))
        timer.start()
        began = time.monotonic()
        open_database(path).close()
        timer.join()
    assert time.monotonic() - began > 0.25


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("times", [2, 1000])
def test_what_sqlite_does_not_wait_for(path: Path, times: int) -> None:
    """Two processes that switch the journal at once: one of them is refused without a wait."""

    class Refusing(sqlite3.Connection):
        left = times

        def execute(self, query: str, *values: Any) -> sqlite3.Cursor:
            self.left -= 1
            if self.left < 0:
                return super().execute(query, *values)
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error

    with closing(sqlite3.connect(path, factory=Refusing)) as connection:
        if times == 2:
            sqlite._use_wal(connection)
            connection.left = 0
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        else:
            with pytest.raises(sqlite3.OperationalError):
                sqlite._use_wal(connection)


OPEN = """
import sys, time
from pathlib import Path
from string import Template
from web.chats.store import migrations, sqlite

path, go = Path(sys.argv[1]), Path(sys.argv[2])
migrations.MIGRATIONS += tuple(sys.argv[3:])
print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
sqlite.open_database(path).close()
"""


def test_several_processes_open_at_once(path: Path) -> None:
    """Each migration happens once."""
    go = path.with_name("go")
    children = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, str(path), str(go), *LATER],
            cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    for child in children:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
    go.touch()
    for child in children:
        _, problem = child.communicate(timeout=60)
        assert child.returncode == 0, problem
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT number FROM counted").fetchall() == [(1,), (2,)]
    assert version(path) == len(MIGRATIONS) + len(LATER)


RELEASED = """
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
    INSERT INTO chats VALUES (7, 'c', 'mei', '旧', 1, 1.5, 2.5, NULL, 'a', '{"adapter": "poet"}');
    INSERT INTO messages VALUES
        (3, 'q', 'c', NULL, 'user', 'done', 1.5, '', NULL, NULL, '', '[]', 'a NUL' || char(0)),
        (4, 'a', 'c', 'q', 'assistant', 'streaming', 1.5, '', NULL, NULL, 'dead', '[]', 'half');
    INSERT INTO snippets VALUES ('mei', 'n' || char(0), 'text');
"""


def test_a_file_of_the_first_version_opens_as_it_is(path: Path) -> None:
    """Written without this program, so that no change of it changes the file, too."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(RELEASED)
    before = tables(path)
    with closing(ChatStore(path)) as store:
        (chat,) = store.chats("mei")
        assert (chat.title, chat.created, chat.settings) == ("旧", 1.5, ChatSettings("poet"))
        assert store.interrupt(lambda server: False) == 1
        said = store.messages("mei", "c")
        assert [message.text for message in said.values()] == ["a NUL\0", "half"]
        store.add("mei", "c", ChatMessage("q2", "a", "user", "and now"))
        assert list(store.messages("mei", "c")) == ["q", "a", "q2"]
        (name,) = store.snippets("mei")
        assert store.snippet("mei", name) == "text"
        store.delete_snippet("mei", name)
        assert store.snippets("mei") == []
    assert tables(path) == before


def begun(store: ChatStore) -> str:
    """A chat with a message."""
    chat = store.create("mei", "A chat", ChatSettings()).id
    store.add("mei", chat, ChatMessage("q", None, "user", "?"))
    return chat


def test_what_is_destroyed_is_gone_from_the_file(path: Path) -> None:
    with closing(ChatStore(path)) as store:
        chat = begun(store)
        store.add("mei", chat, ChatMessage("secret", None, "user", "密语" * 10_000))
        store.delete("mei", chat)
        assert store.purge(time.time() + 1) == 1
    assert "密语".encode() not in path.read_bytes()


def test_a_full_disk(path: Path) -> None:
    with closing(ChatStore(path)) as store:
        chat = begun(store)
        with store.home.once() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match="cannot be saved: the disk is full") as caught:
            store.add("mei", chat, ChatMessage("big", None, "user", "x" * 100_000))
        assert caught.value.remedy == f"Free some space on the disk with {path}."
        store.rename("mei", chat, "still there")
        assert list(store.messages("mei", chat)) == ["q"]


def test_a_lock_that_stays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    with closing(ChatStore(path)) as store, closing(sqlite3.connect(path)) as other:
        chat = begun(store)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="cannot be saved: another program holds"):
            store.rename("mei", chat, "new")
        assert store.chat("mei", chat).title == "A chat"
        other.rollback()
        store.rename("mei", chat, "new")


def in_thread(call: Callable[[], object]) -> object:
    """What a call gives or raises in a thread of its own, which must come to an end."""
    found: list[object] = []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert found, "it still waits"
    return found[0]


def test_reads_do_not_wait_for_a_writer(path: Path) -> None:
    """They see what was there before. An import held up each look at a chat until its end."""
    with closing(ChatStore(path)) as store:
        chat = begun(store)
        with store.home.writing() as connection:
            connection.exec_driver_sql("UPDATE chats SET title = 'new'")
            titles = in_thread(lambda: store.chat("mei", chat).title)
            found = in_thread(lambda: [one.title for one in store.chats("mei", "a chat")])
            assert (titles, found) == ("A chat", ["A chat"])
        assert store.chat("mei", chat).title == "new"


def test_readers_cannot_write(path: Path) -> None:
    with closing(ChatStore(path)) as store:
        begun(store)
        with pytest.raises(StoreError, match="cannot be written"), store._reading() as connection:
            connection.exec_driver_sql("DELETE FROM chats")
        assert len(store.chats("mei")) == 1


def test_writers_wait_for_a_bounded_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "TURN_SECONDS", 0.05)
    with closing(ChatStore(path)) as store:
        chat = begun(store)
        with store.home.writing():
            problem = in_thread(lambda: store.rename("mei", chat, "new"))
        assert str(problem) == f"The chats cannot be saved: {path} is busy. Try again in a moment."
        store.rename("mei", chat, "new")


def test_readers_are_so_many(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many threads read: each connection costs memory and files."""
    monkeypatch.setattr(sqlite, "TURN_SECONDS", 0.05)
    with closing(ChatStore(path)) as store:
        begun(store)
        with ExitStack() as stack:
            for _ in range(sqlite.READERS):
                stack.enter_context(store.home.reading())
            problem = in_thread(lambda: store.chats("mei"))
            assert isinstance(problem, StoreError)
            assert "is busy" in str(problem)
        assert len(store.chats("mei")) == 1


def test_a_file_in_the_place_of_the_open_one_is_not_read(path: Path) -> None:
    """A copy that was put back while the program runs: its journal is another one."""
    with closing(ChatStore(path)) as store:
        begun(store)
        with store.home.reading():  # the connection that is there already
            path.rename(path.with_name("moved.db"))
            path.touch()
            problem = in_thread(lambda: store.chats("mei"))
        assert str(problem) == (
            f"The chats cannot be read: {path} was moved or deleted. "
            "Put it back, then start the program again."
        )


def test_a_reader_that_outlives_the_store_is_closed(path: Path) -> None:
    store = ChatStore(path)
    begun(store)
    with store.home.reading() as connection:
        raw = connection.connection.dbapi_connection
        store.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        raw.execute("SELECT 1")  # type: ignore[union-attr]


def test_check_of_a_store_that_can_be_written(path: Path) -> None:
    """It changes nothing, and leaves no more on the disk however often it is called."""
    with closing(ChatStore(path)) as store:
        begun(store)
        for _ in range(2_000):
            store.check()
        assert sum(file.stat().st_size for file in path.parent.iterdir()) < 20_000_000
    assert version(path) == len(MIGRATIONS)


def test_check_of_a_full_disk(path: Path) -> None:
    with closing(ChatStore(path)) as store:
        begun(store)
        with store.home.once() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1")
        store.check()  # what is there can be written over
    with mounted(path.parent / "small") as small, closing(ChatStore(small / "chats.db")) as store:
        store.check()
        with (small / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(b"x" * 4096)

        def checked() -> None:  # until the journal has to grow
            for _ in range(2_000):
                store.check()

        with pytest.raises(StoreError, match="cannot be saved: the disk"):
            checked()
        (small / "ballast").unlink()
        store.check()


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A file system of its own with little room."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_check_of_a_file_that_is_gone(path: Path) -> None:
    with closing(ChatStore(path)) as store:
        begun(store)
        path.unlink()
        with pytest.raises(StoreError, match="was moved or deleted") as caught:
            store.check()
        path.touch()  # another one, which is not that
        with pytest.raises(StoreError, match="was moved or deleted"):
            store.check()
    assert caught.value.remedy == "Put it back, then start the program again."


def test_check_of_a_folder_that_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with closing(ChatStore(folder / "chats.db")) as store:
        begun(store)
        folder.rename(tmp_path / "elsewhere")
        with pytest.raises(StoreError, match="was moved or deleted"):
            store.check()
        (tmp_path / "elsewhere").rename(folder)
        store.check()


def test_check_of_a_read_only_file(path: Path) -> None:
    with closing(ChatStore(path)) as store:
        with store.home.once() as connection:
            connection.exec_driver_sql("PRAGMA query_only = ON")
        with pytest.raises(StoreError, match="cannot be written"):
            store.check()


def test_check_beside_a_writer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not come to an end is as bad as none."""
    monkeypatch.setattr(sqlite, "CHECK_SECONDS", 0.05)
    with closing(ChatStore(path)) as store:
        with store.home.writing():
            problem = in_thread(store.check)
        assert isinstance(problem, StoreError)
        assert "is busy" in str(problem)
        store.check()
    with pytest.raises(StoreError, match="the program is ending"):
        store.check()
