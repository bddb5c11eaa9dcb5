"""This process among the others that share a PostgreSQL: who lives, and what is new.

Each holds an advisory lock and listens, on a connection of its own. The database lets go of the
lock however the process ends. When the connection is lost, a thread makes another one and takes the
lock again under the same name. Until then this server looks dead, and its replies interrupted;
what it writes next mends that. What it did not hear meanwhile, it looks for; what is to stop, it
has told once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import selectors
import socket
import threading
import time
import uuid
from collections import deque

import psycopg
from sqlalchemy import text

from web.chats.cluster.backoff import Backoff
from web.chats.cluster.file_lock import NAME
from web.chats.cluster.notifications import Hear, ReplicaEvent, from_json, to_json
from web.chats.store.errors import translate_db_errors
from web.chats.store.postgres import NOTICED, Postgres, reason, silence, translate_connect_errors
from web.chats.store.postgres_timeouts import BoundedConnection

CHANNEL = "linly_chats"
RETRY_SECONDS, MAX_RETRY_SECONDS = 0.2, 5.0  # between two tries to connect, or to tell
STEADY_SECONDS = 10.0  # that a connection holds before a loss of it is nothing unusual
READ_SECONDS = 10.0  # between two signs of life
STOP_SECONDS = 30.0  # after which nobody means a Stop any more
RELEASE_SECONDS = 3.0  # for a connection that is being made
MAX_PENDING_EVENTS = 1000  # that wait to be told
MAX_STOPS = 100  # that may have to be told once more
# It says nothing for long. (Before PostgreSQL 14, nobody minded.)
STAY = "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'"
TAKE = "SELECT pg_try_advisory_lock(%s)"
LET_GO = "SELECT pg_advisory_unlock_all()"
TELL = "SELECT pg_notify(%s, news) FROM unnest(%s::text[]) AS news"
HELD = text(
    "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
    " AND classid::bigint = :high AND objid::bigint = :low"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)

log = logging.getLogger(__name__)


class Replica:
    """Known by its `id` while it lives.

    Raises:
        StoreError: the database does not let it.
    """

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self.id = uuid.uuid4().hex
        self._released = threading.Event()
        self._untold: deque[tuple[float, ReplicaEvent]] = deque(
            maxlen=MAX_PENDING_EVENTS
        )  # and when it was news
        self._stops: deque[tuple[float, ReplicaEvent]] = deque(
            maxlen=MAX_STOPS
        )  # those that were told
        self._hear: Hear = lambda _: None
        self._tries = Backoff(RETRY_SECONDS, MAX_RETRY_SECONDS)
        self._refusals = Backoff(RETRY_SECONDS, MAX_RETRY_SECONDS)
        self._refused_until = self._read_at = 0.0
        with translate_connect_errors(postgres):
            self._connection = self._connected()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._thread = threading.Thread(target=self._keep, name="replica", daemon=True)
        self._thread.start()

    def alive(self, server: str) -> bool:
        """Whether the process that is known by `server` lives.

        Raises:
            StoreError
        """
        if server == self.id:
            return True
        if not NAME.fullmatch(server):
            return False
        high, low = divmod(_key(server) % (1 << 64), 1 << 32)
        with translate_db_errors(self._postgres, "read"), self._postgres.reading() as connection:
            return connection.execute(HELD, {"high": high, "low": low}).first() is not None

    def tell(self, news: ReplicaEvent) -> None:
        """Let the others know, soon: the thread tells it, so that nobody waits here."""
        self._untold.append((time.monotonic(), news))
        self._rouse()

    def follow(self, hear: Hear) -> None:
        """Have `hear` called on the event loop that runs now with what the others tell."""
        loop = asyncio.get_running_loop()

        def pass_on(news: ReplicaEvent | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(hear, news)

        self._hear = pass_on

    def release(self) -> None:
        """The process is about to end."""
        self._released.set()
        self._rouse()
        self._thread.join(RELEASE_SECONDS)
        if not self._thread.is_alive():
            self._wake.close()
            self._woken.close()

    def _rouse(self) -> None:
        with contextlib.suppress(OSError):  # full: the thread is being woken already
            self._wake.send(b".")

    def _connected(self) -> BoundedConnection:
        """A connection that holds the lock, and listens.

        Raises:
            psycopg.Error: there is none to be had, or the one before still holds the lock.
        """
        connection = self._postgres.connect()
        connection.seconds = silence()
        try:
            connection.execute(NOTICED)
            connection.execute(STAY)
            (taken,) = connection.execute(TAKE, [_key(self.id)]).fetchone() or (False,)
            if not taken:
                raise psycopg.OperationalError("its last connection still holds the lock")
            connection.execute(f"LISTEN {CHANNEL}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _keep(self) -> None:
        """In a thread of its own: whenever the connection ends, make another one."""
        while not self._released.is_set():
            began = time.monotonic()
            try:
                self._serve(self._connection)
            except (psycopg.Error, OSError):
                self._connection.close()
                if not self._released.is_set():
                    log.warning("%s does not answer", self._postgres)
                    self._pause(time.monotonic() - began)
                    self._regain()
        with contextlib.suppress(psycopg.Error):
            self._connection.execute(LET_GO)  # a connection's end takes a while to be noticed
        self._connection.close()

    def _pause(self, seconds: float) -> None:
        """Where the connection has not held for long, the next one may not either."""
        if seconds > STEADY_SECONDS:
            self._tries.reset()
        else:
            self._released.wait(self._tries.pause())

    def _regain(self) -> None:
        while not self._released.is_set():
            try:
                self._connection = self._connected()
            except psycopg.Error:
                self._released.wait(self._tries.pause())
            else:
                log.warning("%s answers again", self._postgres)
                self._postgres.answers()
                self.tell(ReplicaEvent("", again=True))
                self._hear(None)
                return

    def _serve(self, connection: BoundedConnection) -> None:
        """Tell and hear, until the release.

        Raises:
            psycopg.Error: the connection was lost.
        """
        while not self._released.is_set():
            self._tell_all(connection)
            if time.monotonic() >= self._read_at:
                connection.execute("SELECT 1")  # whoever is idle may be cut off
                self._read_at = time.monotonic() + READ_SECONDS
            for notify in connection.notifies(timeout=0):
                news = from_json(notify.payload)
                if news is not None and notify.pid != connection.info.backend_pid:
                    self._take(news)
            self._wait(connection)

    def _take(self, news: ReplicaEvent) -> None:
        if news.again:
            self._untold.extend(self._stops)
            self._stops.clear()
            self._rouse()
        else:
            self._hear(news)

    def _tell_all(self, connection: BoundedConnection) -> None:
        """All that is still of use, the same once. What cannot be told now waits.

        Raises:
            psycopg.Error: the connection was lost.
        """
        if not self._untold or time.monotonic() < self._refused_until:
            return
        waiting: dict[ReplicaEvent, float] = {}
        while self._untold:
            since, news = self._untold.popleft()
            if not news.stop or time.monotonic() - since < STOP_SECONDS:
                waiting[news] = since
        if not waiting:
            return
        try:
            connection.execute(TELL, [CHANNEL, [to_json(news) for news in waiting]])
        except psycopg.Error as error:
            if isinstance(error, psycopg.OperationalError):  # else it will never be taken
                self._untold.extend((since, news) for news, since in waiting.items())
            if connection.closed:
                raise
            log.warning("%s takes no news: %s", self._postgres, reason(error))
            self._refused_until = time.monotonic() + self._refusals.pause()
        else:
            self._refusals.reset()
            self._stops.extend((since, news) for news, since in waiting.items() if news.stop)

    def _wait(self, connection: BoundedConnection) -> None:
        """Until somebody is roused, something comes, or there is something to do."""
        until = min(self._read_at, self._refused_until if self._untold else self._read_at)
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            selector.register(connection.fileno(), selectors.EVENT_READ)
            selector.select(max(0.0, until - time.monotonic()))
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)


def _key(server: str) -> int:
    """64 bits, as PostgreSQL counts them: with a sign."""
    return int.from_bytes(bytes.fromhex(server)[:8], "big", signed=True)
