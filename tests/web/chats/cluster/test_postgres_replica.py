"""Several servers on one PostgreSQL: who lives, and what a kill or an outage leaves."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from model.config.settings import CHECKOUT
from tests.web.chats.world import ANNA, SECONDS, Open, streaming, until
from tests.web.postgres import PASSWORD, PostgresServer, cut_off, do, rows
from web.chats.cluster import postgres_replica as replica_module
from web.chats.cluster.backoff import JITTER, Backoff
from web.chats.cluster.postgres_replica import STAY, Replica
from web.chats.open_store import open_store
from web.chats.store.errors import StoreError
from web.chats.store.models import ChatMessage, MessageState
from web.chats.store.postgres import NOTICED, Postgres
from web.chats.store.postgres_timeouts import BoundedConnection


def test_who_lives(opened: Open, server: PostgresServer) -> None:
    a, b = opened(), opened()
    for one in (a, b):
        assert one.lock.alive(a.lock.id)
        assert one.lock.alive(b.lock.id)
        for nobody in ("", "x", "0" * 32, "f" * 32, a.lock.id[::-1]):
            assert not one.lock.alive(nobody)
    elsewhere = open_store(Path("unused"), server.database())
    assert not elsewhere.lock.alive(a.lock.id)
    elsewhere.close()
    _, state = streaming(a, b.lock.id)
    a.mark_interrupted_replies()
    assert state() is MessageState.STREAMING
    b.lock.release()
    assert not a.lock.alive(b.lock.id)
    a.mark_interrupted_replies()
    assert state() is MessageState.INTERRUPTED


REPLY = """
import asyncio, sys
from pathlib import Path
from web.chats.open_store import open_store
from web.chats.store.models import ChatMessage, ChatSettings, MessageState

keeping = open_store(Path("unused"), sys.argv[1])
chat = keeping.store.create("browser:anna", "title", ChatSettings()).id
message = ChatMessage("a", None, "assistant", "", MessageState.STREAMING)
keeping.store.add("browser:anna", chat, message, keeping.lock.id)
keeping.store.save_text("a", "床前", keeping.lock.id)
print(keeping.lock.id, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_server_s_reply_is_interrupted(opened: Open, url: str) -> None:
    """In the other's eyes, at once, and it does not have to start anew for that."""
    here = opened()
    child = subprocess.Popen(
        [sys.executable, "-c", REPLY, url], cwd=CHECKOUT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with child:
        assert child.stdout
        there = child.stdout.readline().strip()
        assert here.lock.alive(there)
        here.mark_interrupted_replies()
        assert here.store.message(ANNA, "a")[1].state is MessageState.STREAMING
        child.send_signal(signal.SIGKILL)
        child.wait(SECONDS)
        until(lambda: not here.lock.alive(there))
    here.mark_interrupted_replies()
    reply = here.store.message(ANNA, "a")[1]
    assert (reply.state, reply.text) == (MessageState.INTERRUPTED, "床前")


def test_a_lost_lock_is_taken_again(
    opened: Open,
    url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    a, b = opened(), opened()
    name, state = streaming(a, a.lock.id)
    for _ in range(3):
        cut_off(url)
        until(lambda: b.lock.alive(a.lock.id) and a.lock.alive(b.lock.id))
    b.mark_interrupted_replies()
    a.store.save_text(name, "more", a.lock.id)
    assert state() is MessageState.STREAMING
    assert "answers again" in caplog.text
    assert PASSWORD not in caplog.text


def test_a_lock_that_its_last_connection_still_holds(url: str) -> None:
    """As after a connection that one side alone has seen the end of."""
    home = Postgres(url)
    replica = Replica(home)
    try:
        with pytest.raises(psycopg.OperationalError, match="still holds the lock"):
            replica._connected()
        assert replica.alive(replica.id)
    finally:
        replica.release()
        home.close()


def test_a_restart_in_the_middle(
    opened: Open,
    back: PostgresServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Both servers are known again; what the living one wrote meanwhile is not lost, though the
    other one took it for dead."""
    a, b = opened(), opened()
    name, state = streaming(a, a.lock.id)
    other, other_state = streaming(a, a.lock.id)
    back.stop()
    for deed in (a.mark_interrupted_replies, lambda: a.store.save_text(name, "lost", a.lock.id)):
        with pytest.raises(StoreError, match="does not answer"):
            deed()
    back.start()
    b.store.interrupt(lambda server: False)  # as if it had looked before the lock was taken again
    assert state() is other_state() is MessageState.INTERRUPTED
    a.store.save_text(name, "床前明月", a.lock.id)
    assert state() is MessageState.STREAMING
    done = ChatMessage(other, None, "assistant", "all of it", MessageState.DONE)
    a.store.finish(done, a.lock.id)
    assert other_state() is MessageState.DONE
    until(lambda: b.lock.alive(a.lock.id) and a.lock.alive(b.lock.id))
    b.mark_interrupted_replies()
    assert state() is MessageState.STREAMING
    assert b.store.message(ANNA, name)[1].text == "床前明月"
    assert "Traceback" not in caplog.text
    assert PASSWORD not in caplog.text


def test_pauses_grow() -> None:
    """All replicas came back in the same moment, and at once."""
    backoff = Backoff(1.0, 4.0)
    for _ in range(2):
        for usual in (1, 2, 4, 4, 4):
            assert usual * (1 - JITTER) <= backoff.pause() <= usual * (1 + JITTER)
        backoff.reset()
    assert len({backoff.pause() for _ in range(9)}) == 9


def test_connections_that_do_not_hold(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(Backoff, "pause", lambda self: pauses.append(self._next) or 0.0)

    def failing(self: Replica, connection: BoundedConnection) -> None:
        raise psycopg.OperationalError("lost")

    home = Postgres(url)
    monkeypatch.setattr(Replica, "_serve", failing)
    monkeypatch.setattr(Replica, "_regain", lambda self: None)
    replica = Replica(home)
    try:
        until(lambda: len(pauses) > 5)
    finally:
        replica.release()
        home.close()


def test_who_hears_for_long_is_not_idle(
    opened: Open, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL, or a router between, may cut off whoever says nothing."""
    monkeypatch.setattr(replica_module, "READ_SECONDS", 0.01)
    do(url, f"ALTER DATABASE {url.rpartition('/')[2]} SET idle_session_timeout = '1h'")
    replica = opened().lock
    assert isinstance(replica, Replica)
    pid = replica._connection.info.backend_pid

    def said() -> object:
        starts = dict(rows(url, "SELECT pid, query_start FROM pg_stat_activity"))
        return starts[pid]

    before = said()
    until(lambda: said() != before)
    replica.release()
    home = Postgres(url)
    connection = home.connect()
    connection.execute(STAY)
    assert connection.execute("SHOW idle_session_timeout").fetchone() == ("0",)
    connection.execute(NOTICED)
    assert connection.execute("SHOW tcp_user_timeout").fetchone() == ("25000",)
    connection.close()
    home.close()


def test_a_replica_that_cannot_be_leaves_nothing_open(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[socket.socket] = []
    pair = socket.socketpair

    def kept() -> tuple[socket.socket, ...]:
        made.extend(pair())
        return tuple(made)

    def failing(self: Replica) -> None:
        raise psycopg.OperationalError("no")

    home = Postgres(url)
    monkeypatch.setattr(replica_module.socket, "socketpair", kept)
    monkeypatch.setattr(Replica, "_connected", failing)
    with pytest.raises(StoreError):
        Replica(home)
    assert all(one.fileno() == -1 for one in made)
    home.close()
