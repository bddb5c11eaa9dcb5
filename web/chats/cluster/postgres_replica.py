"""This process as one of several replicas on a PostgreSQL: which of them are alive, and events.

Each replica holds an advisory lock and listens, on a connection of its own. The database releases
the lock however the process ends. When the connection is lost, a thread opens another one and takes
the lock again under the same id. Until then this server looks dead, and its replies interrupted;
its next write to them repairs that. After the gap, subscribers read the store anew, and the other
replicas publish their latest stops once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import selectors
import socket
import threading
import time
import uuid
from collections import deque

import psycopg
from sqlalchemy import text

from web.chats.cluster.file_lock import SERVER_ID
from web.chats.cluster.notifications import EventHandler, ReplicaEvent, from_json, to_json
from web.chats.store.errors import translate_db_errors
from web.chats.store.postgres import (
    DETECT_DEAD_CLIENT,
    Postgres,
    first_line,
    max_silence,
    translate_connect_errors,
)
from web.chats.store.postgres_timeouts import BoundedConnection

CHANNEL = "linly_chats"
RETRY_SECONDS, MAX_RETRY_SECONDS = 0.2, 5.0  # between two attempts to connect, or to publish
STABLE_SECONDS = 10.0  # that a connection lasts, after which the pauses are short again
PING_SECONDS = 10.0  # between two statements that keep the connection from being idle
STOP_SECONDS = 30.0  # after which a stop that could not be published is dropped
RELEASE_SECONDS = 3.0  # to wait for the thread at the end
MAX_PENDING_EVENTS = 1000  # not yet published
MAX_RECENT_STOPS = 100  # that may have to be published once more
JITTER = 0.5  # of a pause, more or less, so that not all replicas come back at the same moment
# The connection is idle for long. (Before PostgreSQL 14, there was no such timeout.)
NO_IDLE_TIMEOUT = (
    "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'"
)
TAKE_LOCK = "SELECT pg_try_advisory_lock(%s)"
RELEASE_LOCKS = "SELECT pg_advisory_unlock_all()"
NOTIFY = "SELECT pg_notify(%s, event) FROM unnest(%s::text[]) AS event"
IS_LOCKED = text(
    "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
    " AND classid::bigint = :high AND objid::bigint = :low"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)

log = logging.getLogger(__name__)


class Backoff:
    """Pauses in seconds, with jitter: each twice as long as the one before, from `first` to
    `longest`."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = self._next = first
        self._longest = longest

    def pause(self) -> float:
        """Returns the next pause."""
        seconds = self._next
        self._next = min(2 * seconds, self._longest)
        return seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311

    def reset(self) -> None:
        """Begins with the first pause again, after a success."""
        self._next = self._first


class Replica:
    """A replica with the server id `id`, and its bus to the others.

    Raises:
        StoreError: the database cannot be used for that.
    """

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self.id = uuid.uuid4().hex
        self._released = threading.Event()
        # Each event with the time at which it was published.
        self._pending: deque[tuple[float, ReplicaEvent]] = deque(maxlen=MAX_PENDING_EVENTS)
        self._recent_stops: deque[tuple[float, ReplicaEvent]] = deque(maxlen=MAX_RECENT_STOPS)
        self._handler: EventHandler = lambda _: None
        self._connect_backoff = Backoff(RETRY_SECONDS, MAX_RETRY_SECONDS)
        self._publish_backoff = Backoff(RETRY_SECONDS, MAX_RETRY_SECONDS)
        self._publish_at = self._ping_at = 0.0
        with translate_connect_errors(postgres):
            self._connection = self._connect()
        self._wake_sender, self._wake_receiver = socket.socketpair()
        self._wake_sender.setblocking(False)
        self._wake_receiver.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="replica", daemon=True)
        self._thread.start()

    @property
    def backend_pid(self) -> int:
        """The process of PostgreSQL's that serves the connection."""
        return self._connection.info.backend_pid

    def alive(self, server: str) -> bool:
        """Whether the process with the id `server` is alive.

        Raises:
            StoreError
        """
        if server == self.id:
            return True
        if not SERVER_ID.fullmatch(server):
            return False
        high, low = divmod(_lock_key(server) % (1 << 64), 1 << 32)
        with translate_db_errors(self._postgres, "read"), self._postgres.reading() as connection:
            return connection.execute(IS_LOCKED, {"high": high, "low": low}).first() is not None

    def publish(self, event: ReplicaEvent) -> None:
        """Sends an event to the other replicas soon, by the thread, so that callers do not wait."""
        self._pending.append((time.monotonic(), event))
        self._wake()

    def subscribe(self, handler: EventHandler) -> None:
        """Has `handler` called on the running event loop with the others' events."""
        loop = asyncio.get_running_loop()

        def call_on_loop(event: ReplicaEvent | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(handler, event)

        self._handler = call_on_loop

    def release(self) -> None:
        """Releases lock and connection, as the process is about to end."""
        self._released.set()
        self._wake()
        self._thread.join(RELEASE_SECONDS)
        if not self._thread.is_alive():
            self._wake_sender.close()
            self._wake_receiver.close()

    def _wake(self) -> None:
        """Wakes the thread."""
        with contextlib.suppress(OSError):  # full: it is being woken already
            self._wake_sender.send(b".")

    def _connect(self) -> BoundedConnection:
        """Opens a connection that holds the lock, and listens.

        Raises:
            psycopg.Error: it cannot be opened, or the last connection still holds the lock.
        """
        connection = self._postgres.connect()
        connection.max_silence = max_silence()
        try:
            connection.execute(DETECT_DEAD_CLIENT)
            connection.execute(NO_IDLE_TIMEOUT)
            (taken,) = connection.execute(TAKE_LOCK, [_lock_key(self.id)]).fetchone() or (False,)
            if not taken:
                raise psycopg.OperationalError("its last connection still holds the lock")
            connection.execute(f"LISTEN {CHANNEL}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _run(self) -> None:
        """The thread: serves the connection, and replaces it when it is lost."""
        while not self._released.is_set():
            began = time.monotonic()
            try:
                self._serve(self._connection)
            except (psycopg.Error, OSError):
                self._connection.close()
                if not self._released.is_set():
                    log.warning("%s does not answer", self._postgres)
                    self._pause(time.monotonic() - began)
                    self._reconnect()
        with contextlib.suppress(psycopg.Error):
            # The server notices the end of a connection only after a while.
            self._connection.execute(RELEASE_LOCKS)
        self._connection.close()

    def _pause(self, lasted: float) -> None:
        """Waits, if the connection has not lasted for long: the next one may not either."""
        if lasted > STABLE_SECONDS:
            self._connect_backoff.reset()
        else:
            self._released.wait(self._connect_backoff.pause())

    def _reconnect(self) -> None:
        while not self._released.is_set():
            try:
                self._connection = self._connect()
            except psycopg.Error:
                self._released.wait(self._connect_backoff.pause())
            else:
                log.warning("%s answers again", self._postgres)
                self._postgres.mark_available()
                self.publish(ReplicaEvent("", again=True))
                self._handler(None)
                return

    def _serve(self, connection: BoundedConnection) -> None:
        """Publishes and receives events, until the release.

        Raises:
            psycopg.Error: the connection was lost.
        """
        while not self._released.is_set():
            self._publish_pending(connection)
            if time.monotonic() >= self._ping_at:
                connection.execute("SELECT 1")  # an idle connection may be cut off
                self._ping_at = time.monotonic() + PING_SECONDS
            for notify in connection.notifies(timeout=0):
                event = from_json(notify.payload)
                if event is not None and notify.pid != connection.info.backend_pid:
                    self._receive(event)
            self._wait(connection)

    def _receive(self, event: ReplicaEvent) -> None:
        if event.again:
            self._pending.extend(self._recent_stops)
            self._recent_stops.clear()
            self._wake()
        else:
            self._handler(event)

    def _publish_pending(self, connection: BoundedConnection) -> None:
        """Publishes all events that are still of use, equal ones once. Events that cannot be
        published now stay pending.

        Raises:
            psycopg.Error: the connection was lost.
        """
        if not self._pending or time.monotonic() < self._publish_at:
            return
        events: dict[ReplicaEvent, float] = {}
        while self._pending:
            since, event = self._pending.popleft()
            if not event.stop or time.monotonic() - since < STOP_SECONDS:
                events[event] = since
        if not events:
            return
        try:
            connection.execute(NOTIFY, [CHANNEL, [to_json(event) for event in events]])
        except psycopg.Error as error:
            if isinstance(error, psycopg.OperationalError):  # else the server will never take them
                self._pending.extend((since, event) for event, since in events.items())
            if connection.closed:
                raise
            log.warning("%s does not accept events: %s", self._postgres, first_line(error))
            self._publish_at = time.monotonic() + self._publish_backoff.pause()
        else:
            self._publish_backoff.reset()
            stops = ((since, event) for event, since in events.items() if event.stop)
            self._recent_stops.extend(stops)

    def _wait(self, connection: BoundedConnection) -> None:
        """Waits until the thread is woken, data arrives, or a ping or a publication is due."""
        until = min(self._ping_at, self._publish_at if self._pending else self._ping_at)
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_receiver, selectors.EVENT_READ)
            selector.register(connection.fileno(), selectors.EVENT_READ)
            selector.select(max(0.0, until - time.monotonic()))
        with contextlib.suppress(BlockingIOError):
            self._wake_receiver.recv(4096)


def _lock_key(server: str) -> int:
    """Returns the advisory lock of a server: 64 bits, signed, as PostgreSQL counts them."""
    return int.from_bytes(bytes.fromhex(server)[:8], "big", signed=True)
