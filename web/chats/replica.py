"""This process among the others that share a PostgreSQL: who lives, and what is new.

Each holds an advisory lock and listens, on a connection of its own. The database lets go of the
lock however the process ends. When the connection is lost, a thread makes another one and takes the
lock again under the same name. Until then this server looks dead, and its replies interrupted;
what it writes next mends that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import selectors
import socket
import threading
import uuid
from collections import deque
from typing import Any

import psycopg
from sqlalchemy import text

from web.chats.errors import told
from web.chats.news import Hear, News, read, written
from web.chats.postgres import Postgres, told_at_start
from web.chats.servers import NAME

CHANNEL = "linly_chats"
RETRY_SECONDS = 0.2  # between two tries to connect again
RELEASE_SECONDS = 3.0  # for a connection that is being made
MOST_NEWS = 1000  # that wait to be told
# A machine without power says nothing; its lock goes after half a minute.
NOTICED = (
    "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"
)
TAKE = "SELECT pg_try_advisory_lock(%s)"
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
        self._released = False
        self._untold: deque[News] = deque(maxlen=MOST_NEWS)
        self._hear: Hear = lambda _: None
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        with told_at_start(postgres):
            self._connection = self._connected()
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
        with told(self._postgres, "read"), self._postgres.reading() as connection:
            return connection.execute(HELD, {"high": high, "low": low}).first() is not None

    def tell(self, news: News) -> None:
        """Let the others know, soon: the thread tells it, so that nobody waits here."""
        self._untold.append(news)
        self._rouse()

    def follow(self, hear: Hear) -> None:
        """Have `hear` called on the event loop that runs now with what the others tell."""
        loop = asyncio.get_running_loop()

        def pass_on(news: News | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(hear, news)

        self._hear = pass_on

    def release(self) -> None:
        """The process is about to end."""
        self._released = True
        self._rouse()
        self._thread.join(RELEASE_SECONDS)
        if not self._thread.is_alive():
            self._wake.close()
            self._woken.close()

    def _rouse(self) -> None:
        with contextlib.suppress(OSError):  # full: the thread is being woken already
            self._wake.send(b".")

    def _connected(self) -> psycopg.Connection[Any]:
        """A connection that holds the lock, and listens.

        Raises:
            psycopg.Error: there is none to be had, or the one before still holds the lock.
        """
        connection = self._postgres.connect()
        try:
            connection.execute(NOTICED)
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
        while not self._released:
            try:
                self._serve(self._connection)
            except (psycopg.Error, OSError):
                self._connection.close()
                if not self._released:
                    log.warning("%s does not answer", self._postgres)
                    self._regain()
        self._connection.close()

    def _regain(self) -> None:
        while not self._released:
            try:
                self._connection = self._connected()
            except psycopg.Error:
                self._wait(RETRY_SECONDS)
            else:
                log.warning("%s answers again", self._postgres)
                self._hear(None)
                return

    def _serve(self, connection: psycopg.Connection[Any]) -> None:
        """Tell and hear, until the release.

        Raises:
            psycopg.Error: the connection was lost.
        """
        while not self._released:
            self._tell_all(connection)
            for notify in connection.notifies(timeout=0):
                news = read(notify.payload)
                if news is not None and notify.pid != connection.info.backend_pid:
                    self._hear(news)
            self._wait(None, connection)

    def _tell_all(self, connection: psycopg.Connection[Any]) -> None:
        waiting: dict[News, None] = {}  # the same once
        while self._untold:
            waiting[self._untold.popleft()] = None
        if not waiting:
            return
        try:
            connection.execute(TELL, [CHANNEL, [written(news) for news in waiting]])
        except psycopg.Error:
            self._untold.extend(waiting)
            raise

    def _wait(
        self, seconds: float | None, connection: psycopg.Connection[Any] | None = None
    ) -> None:
        """Until somebody is roused, something comes, or for so long."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            if connection is not None:
                selector.register(connection.fileno(), selectors.EVENT_READ)
            selector.select(seconds)
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)


def _key(server: str) -> int:
    """64 bits, as PostgreSQL counts them: with a sign."""
    return int.from_bytes(bytes.fromhex(server)[:8], "big", signed=True)
