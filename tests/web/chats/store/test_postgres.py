"""The PostgreSQL: how it becomes what this version needs, what is wrong with it, and outages."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

import tests.web.postgres
from model.config.settings import CHECKOUT
from tests.web.chats.conftest import store_at
from tests.web.chats.store.test_sqlite import LATER
from tests.web.postgres import PASSWORD, PostgresServer, cut_off, do, rows
from web.chats.open_store import open_store
from web.chats.store import chats, migrations, postgres, postgres_timeouts
from web.chats.store.chat_store import ChatStore
from web.chats.store.errors import StoreError
from web.chats.store.migrations import MIGRATIONS, POSTGRES, SQLITE, statements
from web.chats.store.models import ChatMessage, ChatSettings, MessageState
from web.chats.store.postgres import Postgres
from web.chats.store.postgres_timeouts import BoundedConnection
from web.chats.store.search import folded_holds

MEI = "browser:mei"
SHAPE = """
    SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns
    WHERE table_schema = 'public' ORDER BY 1, 2
"""


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version with two more migrations."""
    monkeypatch.setattr(migrations, "MIGRATIONS", MIGRATIONS + LATER)


def version(url: str) -> int:
    ((number,),) = rows(url, "SELECT version FROM linly_schema")
    return int(number)


def refusal(url: str) -> str:
    """The sentences with which the program ends at its start."""
    with pytest.raises(StoreError) as caught:
        open_store(Path("nowhere"), url)
    assert caught.value.exit_status == 1
    assert caught.value.remedy
    told = str(caught.value)
    assert "\n" not in told
    assert PASSWORD not in told
    return told


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("number", range(len(MIGRATIONS) + len(LATER) + 1))
def test_every_earlier_version_becomes_this_one(
    server: PostgresServer, url: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS[:number])
        Postgres(url).close()
    assert version(url) == number
    Postgres(url).close()
    assert rows(url, "SELECT number FROM counted ORDER BY number") == [(1,), (2,)]
    new = server.database()
    Postgres(new).close()
    assert rows(url, SHAPE) == rows(new, SHAPE)


def test_both_databases_have_the_same_columns(url: str, tmp_path: Path) -> None:
    Postgres(url).close()
    kept = {(table, column) for table, column, *_ in rows(url, SHAPE)} - {
        ("linly_schema", "version")
    }
    (script,) = MIGRATIONS
    for types in (SQLITE, POSTGRES):
        assert len(list(statements(script, types))) == 9
    with closing(ChatStore(tmp_path / "chats.db")) as store, store.home.reading() as connection:
        tables = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'")
        assert kept == {
            (table, column)
            for table in tables.scalars().all()
            for _, column, *_ in connection.exec_driver_sql(f"PRAGMA table_info({table})")
        }


def test_a_migration_happens_as_a_whole(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Postgres(url).close()
    broken = "CREATE TABLE half (x INTEGER);\nINSERT INTO nowhere VALUES (1);"
    monkeypatch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, LATER[0], broken))
    with pytest.raises(StoreError, match="nowhere"):
        Postgres(url)
    assert version(url) == len(MIGRATIONS) + 1
    assert not [table for table, *_ in rows(url, SHAPE) if table == "half"]


def test_what_looks_like_a_parameter_in_a_migration(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "CREATE TABLE share (percent TEXT DEFAULT '5 % :x %(y)s %s');"
    monkeypatch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, script))
    Postgres(url).close()
    do(url, "INSERT INTO share DEFAULT VALUES")
    assert rows(url, "SELECT percent FROM share") == [("5 % :x %(y)s %s",)]


def test_a_newer_version_is_left_alone(url: str) -> None:
    Postgres(url).close()
    do(url, "UPDATE linly_schema SET version = 99")
    assert "was written by a newer version of this program. Start that version" in refusal(url)
    assert version(url) == 99


def test_another_programs_tables_are_left_alone(url: str) -> None:
    do(url, "CREATE TABLE messages (x INTEGER)")
    assert "has another program's tables" in refusal(url)
    assert {table for table, *_ in rows(url, SHAPE)} == {"messages"}


def test_tables_in_a_schema_of_their_own(url: str) -> None:
    """What the address says comes first."""
    do(url, "CREATE TABLE messages (x INTEGER)", "CREATE SCHEMA mine")
    with closing(store_at(f"{url}?options=-csearch_path%3Dmine")) as store:
        store.create(MEI, "title", ChatSettings())
    assert rows(url, "SELECT title FROM mine.chats") == [("title",)]


def test_a_database_in_another_encoding(server: PostgresServer) -> None:
    url = server.database("ENCODING 'LATIN1' TEMPLATE template0")
    assert "is not in UTF-8" in refusal(url)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        (lambda s: s.url("nowhere"), 'database "nowhere" does not exist'),
        (lambda s: s.url("postgres", password="wr0ng"), "password authentication failed"),
        (lambda s: s.url("postgres", user="nobody"), "password authentication failed"),
        (lambda s: s.url("postgres").replace("127.0.0.1", "no.host.invalid"), "resolve host"),
        (lambda s: s.url("postgres").replace(str(s.port), "1"), "Connection refused"),
    ],
)  # fmt: skip
def test_a_database_that_cannot_be_reached(
    server: PostgresServer, address: Callable[[PostgresServer], str], says: str
) -> None:
    told = refusal(address(server))
    assert says in told
    assert "wr0ng" not in told
    assert told.endswith(". Check --database_url, and that PostgreSQL runs there.")


def test_a_user_who_may_not(server: PostgresServer, url: str) -> None:
    Postgres(url).close()
    name = url.rpartition("/")[2]
    do(url, "CREATE USER reader PASSWORD 'r'")
    told = refusal(server.url(name, "reader", "r"))
    assert f"the database {name} does not let its user do that" in told


def test_a_database_that_is_read_only(url: str) -> None:
    with closing(store_at(url)) as store:
        chat = store.create(MEI, "title", ChatSettings()).id
        do(url, f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_read_only = on")
        cut_off(url)
        with pytest.raises(StoreError, match=r"cannot be saved: the database \w+ is read-only"):
            store.rename(MEI, chat, "new")
        assert store.chat(MEI, chat).title == "title"


def test_check(back: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a database that can be written, is read-only, hangs, or is away."""
    monkeypatch.setattr(postgres, "STATEMENT_SECONDS", 30.0)
    monkeypatch.setattr(postgres, "CHECK_SECONDS", 0.2)
    home = Postgres(url)
    with closing(ChatStore(home)) as store:
        store.check()
        for seconds in (1000.0, -1.0):  # without a ping and with one
            monkeypatch.setattr(postgres, "PING_SECONDS", seconds)
            began = time.monotonic()
            with back.hanging(url), pytest.raises(StoreError, match="does not answer"):
                store.check()
            assert time.monotonic() - began < postgres.silence()
            home.answers()
            store.check()
        with store.home.reading() as connection:
            driver: Any = connection.connection.dbapi_connection
            assert driver.seconds == postgres.silence()
        do(url, f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_read_only = on")
        cut_off(url)
        with pytest.raises(StoreError, match=r"cannot be saved: the database \w+ is read-only"):
            store.check()
        back.stop()
        with pytest.raises(StoreError, match="does not answer"):
            store.check()


OPEN = """
import sys, time
from pathlib import Path
from web.chats.store import migrations
from web.chats.store.postgres import Postgres

url, go = sys.argv[1], Path(sys.argv[2])
migrations.MIGRATIONS += tuple(sys.argv[3:])
print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
Postgres(url).close()
"""


def test_several_replicas_start_at_once(url: str, tmp_path: Path) -> None:
    """Each migration happens once."""
    go = tmp_path / "go"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, url, str(go), *LATER],
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
    assert rows(url, "SELECT number FROM counted ORDER BY number") == [(1,), (2,)]
    assert version(url) == len(MIGRATIONS) + len(LATER)


def test_two_replicas_clear_away_at_once(url: str) -> None:
    """Neither waits for the other, or fails: what one destroys, the other leaves to it."""
    with closing(store_at(url)) as store, psycopg.connect(url) as other:
        chats = [store.create(MEI, "title", ChatSettings()).id for _ in range(2)]
        for chat in chats:
            store.delete(MEI, chat)
        other.execute("DELETE FROM chats WHERE id = %s", [chats[0]])
        assert store.purge(time.time() + 1) == 1
        other.commit()
    assert rows(url, "SELECT id FROM chats") == []


def test_a_lock_that_stays(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "BUSY_SECONDS", 0.1)
    with closing(store_at(url)) as store, psycopg.connect(url) as other:
        chat = store.create(MEI, "title", ChatSettings()).id
        other.execute("SELECT 1 FROM chats FOR UPDATE")
        with pytest.raises(StoreError, match=r"cannot be saved: the database test\d+ is busy"):
            store.rename(MEI, chat, "new")
        assert store.chat(MEI, chat).title == "title"
        other.rollback()
        store.rename(MEI, chat, "new")


def test_a_question_that_takes_too_long(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "STATEMENT_SECONDS", 0.05)
    with (
        closing(store_at(url)) as store,
        pytest.raises(StoreError, match="is busy"),
        store._reading() as connection,
    ):
        connection.exec_driver_sql("SELECT pg_sleep(60)")


def test_more_threads_than_connections(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "BUSY_SECONDS", 0.05)
    with closing(store_at(url)) as store:
        taken = [store.home.reading() for _ in range(2 * postgres.POOL_SIZE)]
        with pytest.raises(StoreError, match=r"cannot be read: the database \w+ is busy"):
            store.chats(MEI)
        for one in taken:
            one.__exit__(None, None, None)
        assert store.chats(MEI) == []


def test_a_restart_in_the_middle(
    back: PostgresServer, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each call says so in a sentence; afterwards everything is as it was, by itself."""
    with closing(store_at(url)) as store:
        chat = store.create(MEI, "title", ChatSettings()).id
        store.add(MEI, chat, ChatMessage("a", None, "assistant", "", MessageState.STREAMING), "me")
        back.stop()
        calls: tuple[Callable[[], object], ...] = (
            lambda: store.chats(MEI),
            lambda: store.messages(MEI, chat),
            lambda: store.save_text("a", "text", "me"),
            lambda: store.interrupt(lambda server: False),
        )
        for call in calls:
            with pytest.raises(StoreError) as caught:
                call()
            name = url.rpartition("/")[2]
            assert str(caught.value).endswith(
                f": the database {name} does not answer. Try again in a moment."
            )
        back.start()
        store.save_text("a", "text", "me")
        assert store.messages(MEI, chat)["a"].text == "text"
    assert PASSWORD not in caplog.text


def test_a_connection_that_is_lost_in_a_transaction(url: str) -> None:
    with closing(store_at(url)) as store:
        chat = store.create(MEI, "title", ChatSettings()).id

        def change() -> None:
            with store._writing() as connection:
                connection.exec_driver_sql("UPDATE chats SET title = 'half'")
                cut_off(url)
                connection.exec_driver_sql("UPDATE chats SET title = 'whole'")

        with pytest.raises(StoreError, match=r"cannot be saved: the database \w+ does not answer"):
            change()
        assert store.chat(MEI, chat).title == "title"


def test_a_server_that_hangs(
    server: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own limits are none then. The event loop stood still until it went on."""
    monkeypatch.setattr(postgres, "STATEMENT_SECONDS", 0.3)
    monkeypatch.setattr(postgres, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(postgres, "PAUSES", 1000)
    home = Postgres(url)
    with closing(ChatStore(home)) as store:
        chat = store.create(MEI, "title", ChatSettings()).id
        other = home.reading()
        store.chats(MEI)  # on a second connection
        other.__exit__(None, None, None)
        waits = 0
        wait = BoundedConnection.wait

        def counted(*given: Any) -> Any:
            nonlocal waits
            waits += 1
            return wait(*given)

        with server.hanging(url):
            monkeypatch.setattr(BoundedConnection, "wait", counted)
            for call in (lambda: store.rename(MEI, chat, "new"), lambda: store.chats(MEI)) * 2:
                with pytest.raises(StoreError, match="does not answer"):
                    call()
            assert waits == 1  # the others were not even tried
        home.answers()
        assert store.chat(MEI, chat).title == "title"
        store.rename(MEI, chat, "new")


def test_a_server_that_hangs_between_two_statements(
    server: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit is waited for no longer than a statement is."""
    monkeypatch.setattr(postgres, "STATEMENT_SECONDS", 0.3)
    monkeypatch.setattr(postgres, "ANSWER_SECONDS", 0.2)
    with closing(store_at(url)) as store:
        stack = ExitStack()

        def write() -> None:
            with store._writing() as connection:
                connection.exec_driver_sql("SELECT 1")
                stack.enter_context(server.hanging(url))

        with stack, pytest.raises(StoreError, match="does not answer"):
            write()
        assert isinstance(store.home, Postgres)
        store.home.answers()
        assert store.chats(MEI) == []


def test_a_migration_may_take_long(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "STATEMENT_SECONDS", 0.05)
    monkeypatch.setattr(postgres, "ANSWER_SECONDS", 0.0)
    monkeypatch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, "SELECT pg_sleep(0.5);"))
    Postgres(url).close()
    assert version(url) == len(MIGRATIONS) + 1


def test_what_a_server_without_power_held_is_let_go(url: str) -> None:
    """Keepalives are not sent while something is not acknowledged."""
    with closing(store_at(url)) as store, store._reading() as connection:
        for setting, value in (
            ("tcp_user_timeout", "25000"), ("tcp_keepalives_idle", "10"),
            ("idle_in_transaction_session_timeout", "30s"),
        ):  # fmt: skip
            assert connection.exec_driver_sql(f"SHOW {setting}").scalar() == value


def test_how_often_the_database_is_asked(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second replica is milliseconds away from it: each way counts."""
    ways = 0
    bounded = postgres_timeouts._bounded

    def counted(*given: Any) -> Any:
        nonlocal ways
        steps = bounded(*given)
        try:
            wanted = next(steps)
            ways += 1
            while True:
                ready = yield wanted
                wanted = steps.send(ready)
        except StopIteration as ended:
            return ended.value

    def asked(call: Callable[[], object]) -> int:
        nonlocal ways
        ways = 0
        call()
        return ways

    monkeypatch.setattr(postgres, "PING_SECONDS", 1000.0)
    with closing(store_at(url)) as store:
        chat = store.create(MEI, "title", ChatSettings()).id
        reply = ChatMessage("a", None, "assistant", "", MessageState.STREAMING)
        monkeypatch.setattr(postgres_timeouts, "_bounded", counted)
        assert asked(lambda: store.chats(MEI)) == 1
        assert asked(lambda: store.create(MEI, "other", ChatSettings())) == 1
        assert asked(lambda: store.add(MEI, chat, reply, "me")) == 5
        assert asked(lambda: store.save_text("a", "text", "me")) == 1
        assert asked(lambda: store.finish(replace(reply, text="all"), "me")) == 1
        assert asked(lambda: store.rename(MEI, chat, "new")) == 3
        monkeypatch.setattr(postgres, "PING_SECONDS", -1.0)
        assert asked(lambda: store.chats(MEI)) == 2
        monkeypatch.setattr(postgres, "PING_SECONDS", 1000.0)
        cut_off(url)
        assert [one.title for one in store.chats(MEI)] == ["new", "other"]


FEW_MUST_STAY = (
    """
    CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF (SELECT count(*) FROM chats) <= 2 THEN RAISE EXCEPTION 'no more'; END IF;
        RETURN OLD;
    END $$
    """,
    "CREATE TRIGGER keep BEFORE DELETE ON chats FOR EACH ROW EXECUTE FUNCTION keep()",
)


def test_what_cannot_be_cleared_away_is_no_reason_not_to_start(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was one statement: where that took too long, nobody could start the program any more."""
    monkeypatch.setattr(chats, "AT_ONCE", 2)
    with closing(store_at(url)) as store:
        for _ in range(6):
            store.delete(MEI, store.create(MEI, "title", ChatSettings()).id)
    do(url, "UPDATE chats SET deleted = 1", *FEW_MUST_STAY)
    open_store(Path("nowhere"), url).close()
    assert "Old chats are not cleared away" in caplog.text
    assert rows(url, "SELECT count(*) FROM chats") == [(2,)]


def test_a_test_s_server_that_does_not_start_is_ended(
    back: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    back.stop()
    with monkeypatch.context() as patch:
        patch.setattr(tests.web.postgres, "SECONDS", 0.0)
        with pytest.raises(RuntimeError):
            back.start()
    back.start()
    back.stop()


def test_nobody_waits_again_and_again_for_a_host_that_is_silent(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop would stand still most of the time."""
    now, tries = 100.0, 0

    def silent(**_: object) -> None:
        nonlocal now, tries
        now, tries = now + 2.0, tries + 1
        raise psycopg.OperationalError("connection timeout expired")

    home = Postgres(url)
    with closing(ChatStore(home)) as store, monkeypatch.context() as patch:
        home._engine.dispose()
        patch.setattr(postgres.time, "monotonic", lambda: now)
        patch.setattr(BoundedConnection, "connect", silent)
        for _ in range(5):
            with pytest.raises(StoreError, match="does not answer"):
                store.chats(MEI)
        assert tries == 1
        now += 2.0 * postgres.PAUSES
        with pytest.raises(StoreError, match="does not answer"):
            store.chats(MEI)
        assert tries == 2
        patch.undo()
        now += 1000
        home._shut_until = 0.0
        assert store.chats(MEI) == []


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("Straße", "STRASSE"), ("STRASSE", "straße"), ("GRÜẞE", "grüsse"), ("Äpfel", "äPFEL"),
        ("ΟΔΥΣΣΕΥΣ", "οδυσσευς"), ("Οδυσσεύς", "ΎΣ"), ("ﬁsch", "FISCH"), ("привет", "ВЕТ"),
        ("春晓", "晓"), ("x", "ä"), ("100 % ü", "% Ü"), ("a_ü", "AxÜ"), ("été", "ÉTÉ"),
        ("e\u0301", "é"), ("Ǆ", "ǆ"), ("K", "k"), ("Ω", "ω"), ("ŉ", "ʼN"),
    ],
)  # fmt: skip
def test_a_search_finds_what_sqlite_finds(url: str, text: str, query: str) -> None:
    with closing(store_at(url)) as store:
        store.create(MEI, text, ChatSettings())
        plain = all(one.isascii() or one.lower() == one.upper() for one in query)
        expected = query.lower() in text.lower() if plain else folded_holds(text, query.casefold())
        assert bool(store.chats(MEI, query)) == expected


def test_pages_of_threads(url: str) -> None:
    """Connections are shared by threads, and given back whatever happens in them."""
    problems: list[BaseException] = []
    with closing(store_at(url)) as store:
        chat = store.create(MEI, "title", ChatSettings()).id

        def look() -> None:
            try:
                for _ in range(20):
                    store.messages(MEI, chat)
                    with pytest.raises(LookupError), store._writing():
                        raise LookupError
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not problems
