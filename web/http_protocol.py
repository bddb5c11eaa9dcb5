"""uvicorn's HTTP/1.1 protocol with limits, so that no client can block or use up connections.

A request's head is limited in size and time. Its body has to arrive at a minimum rate while it is
read. What arrives after the response is read for a short time and dropped. Requests whose framing
proxies could interpret differently (RFC 9112, 6.3) are refused. A refusal is one line of text, and
closes the connection.
"""

from __future__ import annotations

import asyncio
import enum
import selectors
from collections.abc import Callable, Iterator
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from web.client_address import address_group, is_loopback
from web.connection_limit import MAX_CONNECTIONS, MAX_REFUSED_CONNECTIONS, max_connections
from web.http_framing import (
    BAD_REQUEST,
    RefusedError,
    check_framing,
    framing_head,
    may_open_websocket,
    refusal_of,
    unchunked,
)

KEEP_ALIVE_SECONDS = 75  # longer than nginx (60) and most pools keep an idle connection
MAX_WEBSOCKET_BYTES = 4_000  # of one message; the page's tabs send none
PING_SECONDS = 30.0  # between two pings of a WebSocket, and until the pong


def server_config(
    app: Any, log_level: str = "warning", grace_seconds: int | None = None
) -> uvicorn.Config:
    """Returns uvicorn's configuration for `app`, for the program and its tests.

    Args:
        app: an ASGI application.
        log_level: of uvicorn's own messages.
        grace_seconds: how long open requests may go on after the server has begun to shut down.
    """
    max_connections()  # raises the process's limit of open files
    return uvicorn.Config(
        app,
        http=HttpProtocol,
        ws="websockets-sansio",
        ws_max_size=MAX_WEBSOCKET_BYTES,
        ws_per_message_deflate=False,  # it would need 300 kB of memory for each tab
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PING_SECONDS,
        log_config=None,  # uvicorn's handlers would bypass those of web/logs.py
        log_level=log_level,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=grace_seconds,
    )


class _Part(enum.Enum):
    """The part of a request that a connection is reading."""

    NOTHING = enum.auto()  # between two requests
    HEAD = enum.auto()
    BODY = enum.auto()
    REPLAY = enum.auto()  # a head that has already been handled, see `_ignore_upgrade`
    DISCARDED = enum.auto()  # data is dropped, and the connection will be closed


class HttpProtocol(HttpToolsProtocol):
    """One connection. Time limits are in seconds."""

    MAX_HEAD_BYTES = 32_768  # the request line and all header fields
    MAX_HEADERS = 100
    MAX_URL_BYTES = 8_192
    MAX_BODY_BYTES = 100_000_000  # for all paths; the application has lower limits
    MAX_PIPELINED = 16  # requests that wait for the response to an earlier one
    MAX_DRAIN_BYTES = 64_000_000  # a refused upload may arrive completely
    MAX_CONNECTIONS = MAX_CONNECTIONS
    MAX_CONNECTIONS_PER_ADDRESS = 1_500  # except loopback, where proxies are
    MAX_REFUSED_CONNECTIONS = MAX_REFUSED_CONNECTIONS
    OPEN_SECONDS = 30.0  # for the first byte of the first request
    HEAD_SECONDS = 20.0  # from a head's first byte to its last
    BODY_SECONDS = 30.0  # MIN_BODY_BYTES have to arrive in each such period while a body is read
    MIN_BODY_BYTES = 30_000
    DRAIN_SECONDS = 15.0  # for the remaining body of a request that already has a response
    WRITE_SECONDS = 120.0  # for a client to read what has been sent
    LINGER_SECONDS = 2.0  # for a client to read a refusal

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._part = _Part.NOTHING
        self._running: RequestResponseCycle | None = None
        self._timer: asyncio.TimerHandle | None = None  # limits the time to the client's next step
        self._write_timer: asyncio.TimerHandle | None = None
        self._callbacks = 0  # number of the parser's callbacks
        self._unreported = 0  # bytes fed since the parser's last callback, which it has buffered
        self._head_bytes = 0
        self._body_bytes = 0
        self._period_bytes = 0  # of the body, in the current period of BODY_SECONDS
        self._excused = False  # the server did not read for a part of that period
        self._dropped = 0  # bytes

    # Events of the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._max_connections() + self.MAX_REFUSED_CONNECTIONS:
            transport.abort()
        elif self._exceeds_connections():
            self._refuse(503, "There are too many connections. Try again.", b"retry-after: 5\r\n")
        else:
            self._start_timer(self.OPEN_SECONDS, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        # uvicorn notifies only the latest request, and replies to earlier ones would be generated
        # to their end.
        self._disconnect_cycles()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._part is _Part.DISCARDED:
            self._drop(len(data))
            return
        callbacks = self._callbacks
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            refusal = refusal_of(error, data)
            self._refuse(refusal.status, refusal.sentence)
            return
        self._unreported = 0 if self._callbacks != callbacks else self._unreported + len(data)
        if self._unreported > self.MAX_HEAD_BYTES:
            self._refuse(431, "The request's header fields are too large.")
        else:
            self._await_client()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    def timeout_keep_alive_handler(self) -> None:
        # On a busy machine a request may have arrived that the event loop has not read.
        if has_unread(self.transport):
            self.timeout_keep_alive_task = self.loop.call_later(
                1.0, super().timeout_keep_alive_handler
            )
        else:
            super().timeout_keep_alive_handler()

    # The parser's callbacks

    def on_message_begin(self) -> None:
        self._callbacks += 1
        if self._part is _Part.REPLAY:
            return
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self._stop_timer()
        self._part = _Part.HEAD
        self._head_bytes = self._dropped = 0

    def on_url(self, url: bytes) -> None:
        if self._part is _Part.REPLAY:
            return
        super().on_url(url)
        if len(self.url) > self.MAX_URL_BYTES:
            raise RefusedError(414, f"The URL is longer than {self.MAX_URL_BYTES} bytes.")
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._part is _Part.REPLAY:
            return
        self._count_head(len(name) + len(value) + 4)
        # Trailer fields after a chunked body are dropped: the application has read the head.
        if self._part is _Part.HEAD:
            super().on_header(name, value)
            if len(self.headers) > self.MAX_HEADERS:
                raise RefusedError(431, f"There are more than {self.MAX_HEADERS} header fields.")

    def on_headers_complete(self) -> None:
        self._callbacks += 1
        if self._part is not _Part.REPLAY:
            version = self.parser.get_http_version()
            check_framing(version, self.headers)
            self.expect_100_continue = self.expect_100_continue and version != "1.0"
            if len(self.pipeline) >= self.MAX_PIPELINED:
                raise RefusedError(400, "Too many requests were sent ahead.")
            self._stop_timer()
            super().on_headers_complete()
            if self.pipeline:
                # uvicorn pauses reading here, and so would not notice that the client disconnects.
                self.flow.resume_reading()
        self._part = _Part.BODY
        self._body_bytes = self._period_bytes = 0
        self._excused = False

    def on_body(self, body: bytes) -> None:
        self._callbacks += 1
        self._period_bytes += len(body)
        self._body_bytes += len(body)
        if self.cycle.response_complete:
            self._drop(len(body))
        elif self._body_bytes > self.MAX_BODY_BYTES:
            raise RefusedError(413, f"The body is longer than {self.MAX_BODY_BYTES} bytes.")
        super().on_body(body)
        self._excused = self._excused or self.flow.read_paused

    def on_message_complete(self) -> None:
        self._callbacks += 1
        if self.parser.should_upgrade():
            return  # the parser ends such a request after its head, also if it has a body
        super().on_message_complete()
        self._stop_timer()
        self._part = _Part.NOTHING if self.cycle.keep_alive else _Part.DISCARDED
        if self.cycle.response_complete and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._start_timer(self.WRITE_SECONDS, self.transport.abort)
        elif self._part is _Part.BODY and self.cycle.response_complete:
            self._unset_keepalive_if_required()
            self._start_timer(self.DRAIN_SECONDS, self.transport.close)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        is_old = cycle.scope["http_version"] == "1.0"
        super()._start_asgi_task(cycle, unchunked(cycle, app) if is_old else app)

    # Parsing

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self._should_upgrade():
                self._ignore_upgrade(data[upgrade.args[0] :])
            elif any(self._open_cycles()):
                self._refuse(400, BAD_REQUEST)
            else:
                self._stop_timers()
                self._part = _Part.DISCARDED
                self.handle_websocket_upgrade()

    def _should_upgrade(self) -> bool:
        method, version = self.parser.get_method(), self.parser.get_http_version()
        return may_open_websocket(method, version, self.headers) and super()._should_upgrade()

    def handle_websocket_upgrade(self) -> None:
        super().handle_websocket_upgrade()
        websocket: Any = self.transport.get_protocol()
        if not websocket.handshake_initiated:
            # The head exceeds a limit of the library. uvicorn would leave the connection open.
            self.transport.write(b"".join(websocket.conn.data_to_send()))
            self.transport.close()

    def _ignore_upgrade(self, remaining: bytes) -> None:
        """Continues with HTTP/1.1 (RFC 9110, 7.8): the parser would treat the body as data of the
        other protocol. A new parser gets a head with the same framing, and then `remaining`."""
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._part = _Part.REPLAY
        self._parse(framing_head(self.headers))
        self._parse(remaining)

    def _count_head(self, count: int) -> None:
        self._callbacks += 1
        self._head_bytes += count
        if self._head_bytes > self.MAX_HEAD_BYTES:
            raise RefusedError(431, "The request's header fields are too large.")

    # Limits

    def _max_connections(self) -> int:
        return min(self.MAX_CONNECTIONS, max_connections())

    def _exceeds_connections(self) -> bool:
        if len(self.connections) > self._max_connections():
            return True
        host = self.client[0] if self.client else ""
        if len(self.connections) <= self.MAX_CONNECTIONS_PER_ADDRESS or is_loopback(host):
            return False
        group = address_group(host)
        # `connections` includes those that have become WebSockets.
        clients = (getattr(connection, "client", None) for connection in self.connections)
        same = sum(client is not None and address_group(client[0]) == group for client in clients)
        return same > self.MAX_CONNECTIONS_PER_ADDRESS

    def _await_client(self) -> None:
        """Starts the time limit for the part that the client has begun and not completed."""
        if self._timer is not None:
            return
        if self._part is _Part.HEAD:
            self._start_timer(self.HEAD_SECONDS, self._refuse_slow_head)
        elif self._part is _Part.BODY:
            self._excused = self._is_paused()
            self._start_timer(self.BODY_SECONDS, self._check_body)

    def _refuse_slow_head(self) -> None:
        self._refuse(408, f"The request did not arrive within {self.HEAD_SECONDS:g} s.")

    def _check_body(self) -> None:
        """Called after each period: refuses the body unless the client has sent enough, or the
        server did not read."""
        has_enough = self._period_bytes >= self.MIN_BODY_BYTES
        if has_enough or self._excused or self._is_paused():
            self._excused = self._is_paused()
            self._period_bytes = 0
            self._start_timer(self.BODY_SECONDS, self._check_body)
        else:
            self._refuse(408, "The request's body arrived too slowly.")

    def _is_paused(self) -> bool:
        """Whether the client cannot send because this server is not reading."""
        return self.flow.read_paused or self.cycle.waiting_for_100_continue

    def _drop(self, count: int) -> None:
        self._dropped += count
        if self._dropped > self.MAX_DRAIN_BYTES:
            self.transport.abort()

    def _refuse(self, status: int, sentence: str, fields: bytes = b"") -> None:
        """Sends `sentence` as the response unless another has begun, and closes the connection."""
        receiving = self.cycle if self._part is _Part.BODY else None
        may_respond = all(
            cycle is receiving and not cycle.response_started for cycle in self._open_cycles()
        )
        self._disconnect_cycles()
        self._unset_keepalive_if_required()
        self._part = _Part.DISCARDED
        if not may_respond:
            self.transport.close()
            self._start_timer(self.LINGER_SECONDS, self.transport.abort)
            return
        body = f"{sentence}\n".encode()
        self.transport.write(
            b"%scontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
            b"%sconnection: close\r\n\r\n%s" % (STATUS_LINE[status], len(body), fields, body)
        )
        # If it were closed at once with unread data, it would be reset, and the response lost.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._start_timer(self.LINGER_SECONDS, self.transport.abort)

    def _open_cycles(self) -> Iterator[RequestResponseCycle]:
        if self._running and not self._running.response_complete:
            yield self._running
        yield from (cycle for cycle, _ in self.pipeline)

    def _disconnect_cycles(self) -> None:
        for cycle in self._open_cycles():
            cycle.disconnected = True
            cycle.message_event.set()

    def _start_timer(self, seconds: float, action: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, action)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _stop_timers(self) -> None:
        self._stop_timer()
        self._stop_write_timer()
        self._unset_keepalive_if_required()


def has_unread(transport: asyncio.Transport) -> bool:
    """Whether the socket's buffer has bytes that the event loop has not read."""
    with selectors.DefaultSelector() as selector:
        selector.register(transport.get_extra_info("socket").fileno(), selectors.EVENT_READ)
        return bool(selector.select(0))
