"""Several servers on one PostgreSQL: which are alive, and what a kill or an outage leaves."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from model.config.settings import CHECKOUT
from tests.web.chats.chat_app import ANNA, SECONDS, OpenReplica, add_streaming, block_until
from tests.web.postgres import PASSWORD, PostgresServer, cut_connections, execute, rows
from web.chats.cluster import postgres_replica
from web.chats.cluster.postgres_replica import JITTER, NO_IDLE_TIMEOUT, Backoff, Replica
from web.chats.open_store import open_store
from web.chats.store.errors import StoreError
from web.chats.store.models import ChatMessage, MessageState
from web.chats.store.postgres import DETECT_DEAD_CLIENT, Postgres
from web.chats.store.postgres_timeouts import BoundedConnection


def test_alive_knows_the_servers_of_this_database(
    open_replica: OpenReplica, server: PostgresServer
) -> None:
    a, b = open_replica(), open_replica()
    for replica in (a, b):
        assert replica.lock.alive(a.lock.id)
        assert replica.lock.alive(b.lock.id)
        for unknown in ("", "x", "0" * 32, "f" * 32, a.lock.id[::-1]):
            assert not replica.lock.alive(unknown)
    on_another_database = open_store(Path("unused"), server.database())
    assert not on_another_database.lock.alive(a.lock.id)
    on_another_database.close()
    _, state = add_streaming(a, b.lock.id)
    a.mark_interrupted_replies()
    assert state() is MessageState.STREAMING
    b.lock.release()
    assert not a.lock.alive(b.lock.id)
    a.mark_interrupted_replies()
    assert state() is MessageState.INTERRUPTED


STREAM_A_REPLY = """
import asyncio, sys
from pathlib import Path
from web.chats.open_store import open_store
from web.chats.store.models import ChatMessage, ChatSettings, MessageState

handle = open_store(Path("unused"), sys.argv[1])
chat = handle.store.create("browser:anna", "title", ChatSettings()).id
message = ChatMessage("a", None, "assistant", "", MessageState.STREAMING)
handle.store.add("browser:anna", chat, message, handle.lock.id)
handle.store.save_text("a", "床前", handle.lock.id)
print(handle.lock.id, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_reply_of_a_killed_server_is_interrupted(open_replica: OpenReplica, url: str) -> None:
    """The other server marks it at once, without a restart."""
    handle = open_replica()
    child = subprocess.Popen(
        [sys.executable, "-c", STREAM_A_REPLY, url], cwd=CHECKOUT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with child:
        assert child.stdout
        killed = child.stdout.readline().strip()
        assert handle.lock.alive(killed)
        handle.mark_interrupted_replies()
        assert handle.store.message(ANNA, "a")[1].state is MessageState.STREAMING
        child.send_signal(signal.SIGKILL)
        child.wait(SECONDS)
        block_until(lambda: not handle.lock.alive(killed))
    handle.mark_interrupted_replies()
    reply = handle.store.message(ANNA, "a")[1]
    assert (reply.state, reply.text) == (MessageState.INTERRUPTED, "床前")


def test_lock_is_taken_again_after_a_lost_connection(
    open_replica: OpenReplica, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = open_replica(), open_replica()
    message, state = add_streaming(a, a.lock.id)
    for _ in range(3):
        cut_connections(url)
        block_until(lambda: b.lock.alive(a.lock.id) and a.lock.alive(b.lock.id))
    b.mark_interrupted_replies()
    a.store.save_text(message, "more", a.lock.id)
    assert state() is MessageState.STREAMING
    assert "answers again" in caplog.text
    assert PASSWORD not in caplog.text


def test_lock_that_the_last_connection_still_holds_is_not_taken(url: str) -> None:
    """As when only one side has noticed the end of that connection."""
    postgres = Postgres(url)
    replica = Replica(postgres)
    try:
        with pytest.raises(psycopg.OperationalError, match="still holds the lock"):
            replica._connect()
        assert replica.alive(replica.id)
    finally:
        replica.release()
        postgres.close()


def test_server_is_known_again_after_a_restart_of_the_database(
    open_replica: OpenReplica, restarted_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What a living server writes is not lost, though the other one took it for dead."""
    a, b = open_replica(), open_replica()
    message, state = add_streaming(a, a.lock.id)
    other, other_state = add_streaming(a, a.lock.id)
    restarted_server.stop()
    for action in (
        a.mark_interrupted_replies,
        lambda: a.store.save_text(message, "lost", a.lock.id),
    ):
        with pytest.raises(StoreError, match="does not answer"):
            action()
    restarted_server.start()
    b.store.mark_interrupted(lambda server: False)  # as before the lock is taken again
    assert state() is other_state() is MessageState.INTERRUPTED
    a.store.save_text(message, "床前明月", a.lock.id)
    assert state() is MessageState.STREAMING
    done = ChatMessage(other, None, "assistant", "all of it", MessageState.DONE)
    a.store.finish(done, a.lock.id)
    assert other_state() is MessageState.DONE
    block_until(lambda: b.lock.alive(a.lock.id) and a.lock.alive(b.lock.id))
    b.mark_interrupted_replies()
    assert state() is MessageState.STREAMING
    assert b.store.message(ANNA, message)[1].text == "床前明月"
    assert "Traceback" not in caplog.text
    assert PASSWORD not in caplog.text


def test_backoff_doubles_its_pauses_with_jitter() -> None:
    """Without them, all replicas came back at the same moment, and at once."""
    backoff = Backoff(1.0, 4.0)
    for _ in range(2):
        for usual in (1, 2, 4, 4, 4):
            assert usual * (1 - JITTER) <= backoff.pause() <= usual * (1 + JITTER)
        backoff.reset()
    assert len({backoff.pause() for _ in range(9)}) == 9


def test_pauses_follow_connections_that_do_not_last(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = 0

    def count(self: Backoff) -> float:
        nonlocal pauses
        pauses += 1
        return 0.0

    def lose(self: Replica, connection: BoundedConnection) -> None:
        raise psycopg.OperationalError("lost")

    monkeypatch.setattr(Backoff, "pause", count)
    monkeypatch.setattr(Replica, "_serve", lose)
    monkeypatch.setattr(Replica, "_reconnect", lambda self: None)
    postgres = Postgres(url)
    replica = Replica(postgres)
    try:
        block_until(lambda: pauses > 5)
    finally:
        replica.release()
        postgres.close()


def test_idle_connection_is_pinged(
    open_replica: OpenReplica, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL, or a router in between, may cut off an idle one."""
    monkeypatch.setattr(postgres_replica, "PING_SECONDS", 0.01)
    execute(url, f"ALTER DATABASE {url.rpartition('/')[2]} SET idle_session_timeout = '1h'")
    replica = open_replica().lock
    assert isinstance(replica, Replica)
    pid = replica.backend_pid

    def last_statement() -> object:
        starts = dict(rows(url, "SELECT pid, query_start FROM pg_stat_activity"))
        return starts[pid]

    before = last_statement()
    block_until(lambda: last_statement() != before)
    replica.release()
    postgres = Postgres(url)
    connection = postgres.connect()
    connection.execute(NO_IDLE_TIMEOUT)
    assert connection.execute("SHOW idle_session_timeout").fetchone() == ("0",)
    connection.execute(DETECT_DEAD_CLIENT)
    assert connection.execute("SHOW tcp_user_timeout").fetchone() == ("25000",)
    connection.close()
    postgres.close()


def test_replica_that_cannot_connect_leaves_nothing_open(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets: list[socket.socket] = []
    socketpair = socket.socketpair

    def record() -> tuple[socket.socket, ...]:
        sockets.extend(socketpair())
        return tuple(sockets)

    def fail() -> None:
        raise psycopg.OperationalError("no")

    postgres = Postgres(url)
    monkeypatch.setattr(socket, "socketpair", record)
    monkeypatch.setattr(postgres, "connect", fail)
    with pytest.raises(StoreError):
        Replica(postgres)
    assert all(opened.fileno() == -1 for opened in sockets)
    postgres.close()
