"""PostgreSQL: what makes a database unsuitable, connections and their bounds, and outages."""

from __future__ import annotations

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
from tests.web.chats.conftest import store_at
from tests.web.chats.store.samples import MEI
from tests.web.postgres import PASSWORD, PostgresServer, cut_connections, execute, rows
from web.chats.open_store import open_store
from web.chats.store import chats, migrations, postgres, postgres_timeouts
from web.chats.store.chat_store import ChatStore
from web.chats.store.errors import StoreError
from web.chats.store.migrations import MIGRATIONS
from web.chats.store.models import ChatMessage, ChatSettings, MessageState
from web.chats.store.postgres import Postgres
from web.chats.store.postgres_timeouts import BoundedConnection
from web.chats.store.search import contains_folded


def database_name(url: str) -> str:
    return url.rpartition("/")[2]


def make_read_only(url: str) -> None:
    """Makes the database read-only, as a standby is, and cuts its connections."""
    execute(url, f"ALTER DATABASE {database_name(url)} SET default_transaction_read_only = on")
    cut_connections(url)


def start_error(url: str) -> str:
    """Returns the sentences with which the program ends when it starts."""
    with pytest.raises(StoreError) as caught:
        open_store(Path("nowhere"), url)
    assert caught.value.exit_status == 1
    assert caught.value.remedy
    message = str(caught.value)
    assert "\n" not in message
    assert PASSWORD not in message
    return message


def test_migration_s_text_is_taken_literally(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it looks like a parameter."""
    script = "CREATE TABLE share (percent TEXT DEFAULT '5 % :x %(y)s %s');"
    monkeypatch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, script))
    Postgres(url).close()
    execute(url, "INSERT INTO share DEFAULT VALUES")
    assert rows(url, "SELECT percent FROM share") == [("5 % :x %(y)s %s",)]


def test_migration_may_take_longer_than_a_statement(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "STATEMENT_SECONDS", 0.05)
    monkeypatch.setattr(postgres, "ANSWER_SECONDS", 0.0)
    monkeypatch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, "SELECT pg_sleep(0.5);"))
    Postgres(url).close()
    assert rows(url, "SELECT version FROM linly_schema") == [(len(MIGRATIONS) + 1,)]


def test_start_error_names_the_problem(url: str) -> None:
    Postgres(url).close()
    execute(url, "UPDATE linly_schema SET version = 99")
    assert "was written by a newer version of this program. Start that version" in start_error(url)


def test_options_in_the_address_take_precedence(url: str) -> None:
    """Here a schema, beside another program's tables."""
    execute(url, "CREATE TABLE messages (x INTEGER)", "CREATE SCHEMA mine")
    with closing(store_at(f"{url}?options=-csearch_path%3Dmine")) as store:
        store.create(MEI, "title", ChatSettings())
    assert rows(url, "SELECT title FROM mine.chats") == [("title",)]


def test_database_in_another_encoding_is_refused(server: PostgresServer) -> None:
    url = server.database("ENCODING 'LATIN1' TEMPLATE template0")
    assert "does not use UTF-8" in start_error(url)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (lambda s: s.url("nowhere"), 'database "nowhere" does not exist'),
        (lambda s: s.url("postgres", password="wr0ng"), "password authentication failed"),
        (lambda s: s.url("postgres", user="nobody"), "password authentication failed"),
        (lambda s: s.url("postgres").replace("127.0.0.1", "no.host.invalid"), "resolve host"),
        (lambda s: s.url("postgres").replace(str(s.port), "1"), "Connection refused"),
    ],
)  # fmt: skip
def test_database_that_cannot_be_reached_is_refused(
    server: PostgresServer, address: Callable[[PostgresServer], str], reason: str
) -> None:
    message = start_error(address(server))
    assert reason in message
    assert "wr0ng" not in message
    assert message.endswith(". Check --database_url, and that PostgreSQL runs there.")


def test_user_without_rights_is_refused(server: PostgresServer, url: str) -> None:
    Postgres(url).close()
    execute(url, "CREATE USER reader PASSWORD 'r'")
    name = database_name(url)
    message = start_error(server.url(name, "reader", "r"))
    assert f"the database user lacks a permission in the database {name}" in message


def test_read_only_database_can_be_read(url: str) -> None:
    with closing(store_at(url)) as store:
        chat = store.create(MEI, "title", ChatSettings()).id
        make_read_only(url)
        with pytest.raises(StoreError, match=r"cannot be saved: the database \w+ is read-only"):
            store.rename(MEI, chat, "new")
        assert store.chat(MEI, chat).title == "title"


@pytest.mark.parametrize("ping_seconds", [1000.0, -1.0], ids=["without a ping", "with a ping"])
def test_check_of_a_hanging_server_has_a_bound_of_its_own(
    server: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch, ping_seconds: float
) -> None:
    """It waits for less time than a statement may take."""
    monkeypatch.setattr(postgres, "CHECK_SECONDS", 0.2)
    monkeypatch.setattr(postgres, "PING_SECONDS", ping_seconds)
    bounds: set[float] = set()
    bound_silence = postgres_timeouts.bound_silence

    def record(gen: Any, seconds: float) -> Any:
        bounds.add(seconds)
        return bound_silence(gen, seconds)

    backend = Postgres(url)
    with closing(ChatStore(backend)) as store:
        store.check()
        with server.hanging(url), monkeypatch.context() as patch:
            patch.setattr(postgres_timeouts, "bound_silence", record)
            with pytest.raises(StoreError, match="does not answer"):
                store.check()
        assert bounds == {0.2}
        backend.mark_available()
        store.check()
        with store.reading() as connection:
            driver: Any = connection.connection.dbapi_connection
            assert driver.max_silence == postgres.max_silence()


def test_check_notices_a_read_only_and_a_stopped_server(
    restarted_server: PostgresServer, url: str
) -> None:
    with closing(store_at(url)) as store:
        store.check()
        make_read_only(url)
        with pytest.raises(StoreError, match=r"cannot be saved: the database \w+ is read-only"):
            store.check()
        restarted_server.stop()
        with pytest.raises(StoreError, match="does not answer"):
            store.check()


def test_replicas_purge_at_the_same_time(url: str) -> None:
    """Neither waits or fails: each leaves to the other what that one is destroying."""
    with closing(store_at(url)) as store, psycopg.connect(url) as other:
        deleted = [store.create(MEI, "title", ChatSettings()).id for _ in range(2)]
        for chat in deleted:
            store.delete(MEI, chat)
        other.execute("DELETE FROM chats WHERE id = %s", [deleted[0]])
        assert store.purge(time.time() + 1) == 1
        other.commit()
    assert rows(url, "SELECT id FROM chats") == []


def test_statement_that_takes_too_long_is_ended(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "STATEMENT_SECONDS", 0.05)
    with (
        closing(store_at(url)) as store,
        pytest.raises(StoreError, match="is busy"),
        store.reading() as connection,
    ):
        connection.exec_driver_sql("SELECT pg_sleep(60)")


def test_threads_wait_briefly_for_a_connection(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "BUSY_SECONDS", 0.05)
    with closing(store_at(url)) as store:
        with ExitStack() as stack:
            for _ in range(2 * postgres.POOL_SIZE):
                stack.enter_context(store.reading())
            with pytest.raises(StoreError, match=r"cannot be read: the database \w+ is busy"):
                store.chats(MEI)
        assert store.chats(MEI) == []


def test_threads_share_connections(url: str) -> None:
    """Each connection is returned to the pool, also after an error."""
    errors: list[BaseException] = []
    with closing(store_at(url)) as store:
        chat = store.create(MEI, "title", ChatSettings()).id

        def read_and_fail() -> None:
            try:
                for _ in range(20):
                    store.messages(MEI, chat)
                    with pytest.raises(LookupError), store.transaction():
                        raise LookupError
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=read_and_fail) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors


def test_store_works_again_after_a_restart_of_the_server(
    restarted_server: PostgresServer, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Meanwhile each call fails with a sentence."""
    with closing(store_at(url)) as store:
        chat = store.create(MEI, "title", ChatSettings()).id
        store.add(MEI, chat, ChatMessage("a", None, "assistant", "", MessageState.STREAMING), "me")
        restarted_server.stop()
        calls: tuple[Callable[[], object], ...] = (
            lambda: store.chats(MEI),
            lambda: store.messages(MEI, chat),
            lambda: store.save_text("a", "text", "me"),
            lambda: store.mark_interrupted(lambda server: False),
        )
        for call in calls:
            with pytest.raises(StoreError) as caught:
                call()
            assert str(caught.value).endswith(
                f": the database {database_name(url)} does not answer. Try again in a moment."
            )
        restarted_server.start()
        store.save_text("a", "text", "me")
        assert store.messages(MEI, chat)["a"].text == "text"
    assert PASSWORD not in caplog.text


def test_transaction_is_undone_when_its_connection_is_lost(url: str) -> None:
    with closing(store_at(url)) as store:
        chat = store.create(MEI, "title", ChatSettings()).id

        def change() -> None:
            with store.transaction() as connection:
                connection.exec_driver_sql("UPDATE chats SET title = 'half'")
                cut_connections(url)
                connection.exec_driver_sql("UPDATE chats SET title = 'whole'")

        with pytest.raises(StoreError, match=r"cannot be saved: the database \w+ does not answer"):
            change()
        assert store.chat(MEI, chat).title == "title"


@pytest.fixture
def short_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "STATEMENT_SECONDS", 0.3)
    monkeypatch.setattr(postgres, "ANSWER_SECONDS", 0.2)


@pytest.mark.usefixtures("short_silence")
def test_hanging_server_is_waited_for_once(
    server: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own timeouts do not work then. The event loop waited until it went on."""
    monkeypatch.setattr(postgres, "PAUSE_FACTOR", 1000)
    backend = Postgres(url)
    with closing(ChatStore(backend)) as store:
        chat = store.create(MEI, "title", ChatSettings()).id
        with store.reading():
            store.chats(MEI)  # on a second connection
        waits = 0
        wait = BoundedConnection.wait

        def count_waits(*args: Any) -> Any:
            nonlocal waits
            waits += 1
            return wait(*args)

        with server.hanging(url):
            monkeypatch.setattr(BoundedConnection, "wait", count_waits)
            for call in (lambda: store.rename(MEI, chat, "new"), lambda: store.chats(MEI)) * 2:
                with pytest.raises(StoreError, match="does not answer"):
                    call()
            assert waits == 1  # the other calls failed without an attempt
        backend.mark_available()
        assert store.chat(MEI, chat).title == "title"
        store.rename(MEI, chat, "new")


@pytest.mark.usefixtures("short_silence")
def test_commit_does_not_wait_for_a_hanging_server(server: PostgresServer, url: str) -> None:
    """It hangs between two statements of a transaction."""
    backend = Postgres(url)
    with closing(ChatStore(backend)) as store:
        stack = ExitStack()

        def write() -> None:
            with store.transaction() as connection:
                connection.exec_driver_sql("SELECT 1")
                stack.enter_context(server.hanging(url))

        with stack, pytest.raises(StoreError, match="does not answer"):
            write()
        backend.mark_available()
        assert store.chats(MEI) == []


def test_server_detects_a_dead_client(url: str) -> None:
    """Keepalives are not enough: they are not sent while data is not acknowledged."""
    with closing(store_at(url)) as store, store.reading() as connection:
        for setting, value in (
            ("tcp_user_timeout", "25000"), ("tcp_keepalives_idle", "10"),
            ("idle_in_transaction_session_timeout", "30s"),
        ):  # fmt: skip
            assert connection.exec_driver_sql(f"SHOW {setting}").scalar() == value


def test_round_trips_of_each_call(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database may be milliseconds away from a replica, so each round trip counts."""
    round_trips = 0
    bound_silence = postgres_timeouts.bound_silence

    def count_round_trips(*args: Any) -> Any:
        nonlocal round_trips
        steps = bound_silence(*args)
        try:
            awaited = next(steps)
            round_trips += 1
            while True:
                ready = yield awaited
                awaited = steps.send(ready)
        except StopIteration as ended:
            return ended.value

    def count(call: Callable[[], object]) -> int:
        nonlocal round_trips
        round_trips = 0
        call()
        return round_trips

    monkeypatch.setattr(postgres, "PING_SECONDS", 1000.0)
    with closing(store_at(url)) as store:
        chat = store.create(MEI, "title", ChatSettings()).id
        reply = ChatMessage("a", None, "assistant", "", MessageState.STREAMING)
        monkeypatch.setattr(postgres_timeouts, "bound_silence", count_round_trips)
        assert count(lambda: store.chats(MEI)) == 1
        assert count(lambda: store.create(MEI, "other", ChatSettings())) == 1
        assert count(lambda: store.add(MEI, chat, reply, "me")) == 5
        assert count(lambda: store.save_text("a", "text", "me")) == 1
        assert count(lambda: store.finish(replace(reply, text="all"), "me")) == 1
        assert count(lambda: store.rename(MEI, chat, "new")) == 3
        monkeypatch.setattr(postgres, "PING_SECONDS", -1.0)
        assert count(lambda: store.chats(MEI)) == 2
        monkeypatch.setattr(postgres, "PING_SECONDS", 1000.0)
        cut_connections(url)
        assert [found.title for found in store.chats(MEI)] == ["new", "other"]


KEEP_TWO_CHATS = (
    """
    CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF (SELECT count(*) FROM chats) <= 2 THEN RAISE EXCEPTION 'no more'; END IF;
        RETURN OLD;
    END $$
    """,
    "CREATE TRIGGER keep BEFORE DELETE ON chats FOR EACH ROW EXECUTE FUNCTION keep()",
)


def test_failed_purge_does_not_keep_the_program_from_starting(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was one statement: when that took too long, the program did not start any more."""
    monkeypatch.setattr(chats, "DELETE_BATCH", 2)
    with closing(store_at(url)) as store:
        for _ in range(6):
            store.delete(MEI, store.create(MEI, "title", ChatSettings()).id)
    execute(url, "UPDATE chats SET deleted = 1", *KEEP_TWO_CHATS)
    open_store(Path("nowhere"), url).close()
    assert "Old chats could not be deleted" in caplog.text
    assert rows(url, "SELECT count(*) FROM chats") == [(2,)]


def test_test_server_that_does_not_start_is_ended(
    restarted_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    restarted_server.stop()
    with monkeypatch.context() as patch:
        patch.setattr(tests.web.postgres, "START_SECONDS", 0.0)
        with pytest.raises(RuntimeError):
            restarted_server.start()
    restarted_server.start()
    restarted_server.stop()


def test_silent_host_is_tried_again_only_after_a_pause(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers would wait most of the time."""
    now, attempts = 100.0, 0

    def time_out(**_: object) -> None:
        nonlocal now, attempts
        now, attempts = now + 2.0, attempts + 1
        raise psycopg.OperationalError("connection timeout expired")

    backend = Postgres(url)
    with closing(ChatStore(backend)) as store, monkeypatch.context() as patch:
        cut_connections(url)
        patch.setattr(time, "monotonic", lambda: now)
        patch.setattr(BoundedConnection, "connect", time_out)
        for _ in range(5):
            with pytest.raises(StoreError, match="does not answer"):
                store.chats(MEI)
        assert attempts == 1
        now += 2.0 * postgres.PAUSE_FACTOR
        with pytest.raises(StoreError, match="does not answer"):
            store.chats(MEI)
        assert attempts == 2
        patch.undo()
        backend.mark_available()
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
def test_search_finds_what_sqlite_finds(url: str, text: str, query: str) -> None:
    with closing(store_at(url)) as store:
        store.create(MEI, text, ChatSettings())
        is_plain = all(c.isascii() or c.lower() == c.upper() for c in query)
        folded = contains_folded(text, query.casefold())
        expected = query.lower() in text.lower() if is_plain else folded
        assert bool(store.chats(MEI, query)) == expected
