"""uvicorn's HTTP/1.1 protocol with bounds, so that no client can hold or fill connections.

A request's head is bounded in size and time; its body has to keep coming for as long as it is
read; what arrives after the response is read for a short while and dropped. Requests whose framing
proxies could read differently (RFC 9112, 6.3) are refused. Refusals are one line of text, and the
connection is closed after them.
"""

from __future__ import annotations

import asyncio
import enum
import functools
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

KEEP_ALIVE_SECONDS = 75  # longer than nginx (60) and most pools keep an idle connection
MAX_WEBSOCKET_BYTES = 4_000  # of one message: the page's tabs have nothing to say
PING_SECONDS = 30.0  # between two pings of a WebSocket, and until its answer
OTHER_DESCRIPTORS = 200  # open files that are no client's connection: weights, chats, logs
BAD_REQUEST = "This is not a valid HTTP request."


def server_config(
    app: Any, log_level: str = "warning", grace_seconds: int | None = None
) -> uvicorn.Config:
    """How uvicorn serves `app`: in the program and in its tests.

    Args:
        app: an ASGI application.
        log_level: of uvicorn's own messages.
        grace_seconds: how long open requests may go on once the server is told to end.
    """
    _descriptors()
    return uvicorn.Config(
        app,
        http=HttpProtocol,
        ws="websockets-sansio",
        ws_max_size=MAX_WEBSOCKET_BYTES,
        ws_per_message_deflate=False,  # it would take 300 kB of memory for each tab
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PING_SECONDS,
        log_config=None,  # uvicorn's own handlers would bypass those of web/logs.py
        log_level=log_level,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=grace_seconds,
    )


class _Part(enum.Enum):
    """What a connection reads."""

    NOTHING = enum.auto()  # it is between two requests
    HEAD = enum.auto()
    BODY = enum.auto()
    REPLAY = enum.auto()  # a head that has been handled already, see `_ignore_upgrade`
    DISCARDED = enum.auto()  # no further request: it will be closed


class _RefusedError(Exception):
    """The request cannot be served; raised inside the parser's callbacks."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


class HttpProtocol(HttpToolsProtocol):
    """One connection. Time limits are in seconds."""

    MAX_HEAD_BYTES = 32_768  # the request line and all header fields
    MAX_HEADERS = 100
    MAX_URL_BYTES = 8_192
    MAX_BODY_BYTES = 100_000_000  # whatever the application takes at a path
    MAX_PIPELINED = 16  # requests that wait for the response to an earlier one
    MAX_DRAIN_BYTES = 64_000_000  # an upload that was refused may arrive completely
    MAX_CONNECTIONS = 5_000
    MAX_CONNECTIONS_PER_ADDRESS = 1_500  # loopback, where proxies are, has no limit of its own
    MAX_REFUSED_CONNECTIONS = 200  # beyond the maximum that still get an answer
    OPEN_SECONDS = 30.0  # for the first byte of the first request
    HEAD_SECONDS = 20.0  # from a head's first byte to its last
    BODY_SECONDS = 30.0  # in each such period MIN_BODY_BYTES have to arrive, while they are read
    MIN_BODY_BYTES = 30_000
    DRAIN_SECONDS = 15.0  # for the rest of a body whose request has been answered
    WRITE_SECONDS = 120.0  # for a client to take what has been sent
    LINGER_SECONDS = 2.0  # for a client to read why it was refused

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._part = _Part.NOTHING
        self._running: RequestResponseCycle | None = None
        self._timer: asyncio.TimerHandle | None = None  # of the client's next step
        self._write_timer: asyncio.TimerHandle | None = None
        self._callbacks = 0  # of the parser, which keeps what it has not reported
        self._unreported = 0  # bytes that the parser was given since its last callback
        self._head_bytes = 0
        self._body_bytes = 0
        self._period_bytes = 0  # of the body, in the current period of BODY_SECONDS
        self._excused = False  # the client could not send for a part of that period
        self._dropped = 0  # bytes

    # The connection

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
        # uvicorn tells the latest request alone, and replies to earlier ones would be generated
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
            reason = error.__context__
            if isinstance(reason, _RefusedError):
                self._refuse(reason.status, reason.sentence)
            else:
                self._refuse(400, BAD_REQUEST)
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
        # On a busy machine a request may have arrived that the event loop has not read yet.
        if _has_unread(self.transport):
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
            raise _RefusedError(414, f"The URL is longer than {self.MAX_URL_BYTES} bytes.")
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._part is _Part.REPLAY:
            return
        self._count_head(len(name) + len(value) + 4)
        # Those behind a chunked body are dropped: the application has read the head by then.
        if self._part is _Part.HEAD:
            super().on_header(name, value)
            if len(self.headers) > self.MAX_HEADERS:
                raise _RefusedError(431, f"There are more than {self.MAX_HEADERS} header fields.")

    def on_headers_complete(self) -> None:
        self._callbacks += 1
        if self._part is not _Part.REPLAY:
            self._check_head()
            self._stop_timer()
            super().on_headers_complete()
            if self.pipeline:
                # uvicorn reads no further here, and so would not see the client leave.
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
            raise _RefusedError(413, f"The body is longer than {self.MAX_BODY_BYTES} bytes.")
        super().on_body(body)
        self._excused = self._excused or self.flow.read_paused

    def on_message_complete(self) -> None:
        self._callbacks += 1
        if self.parser.should_upgrade():
            return  # the parser ends such a request with its head, whatever its body is
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
        unchunked = cycle.scope["http_version"] == "1.0"
        super()._start_asgi_task(cycle, _unchunked(cycle, app) if unchunked else app)

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

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Go on with HTTP/1.1 (RFC 9110, 7.8): the parser would take the body for the other
        protocol. Another parser gets a head with the same framing, and then `rest`."""
        framing = [
            name + b": " + value + b"\r\n"
            for name, value in self.headers
            if name in (b"content-length", b"transfer-encoding")
        ]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._part = _Part.REPLAY
        self._parse(b"".join([b"POST / HTTP/1.1\r\n", *framing, b"\r\n"]))
        self._parse(rest)

    def _check_head(self) -> None:
        """Refuse what has another meaning for other software, or cannot be framed."""
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise _RefusedError(505, "This server speaks HTTP/1.1.")
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            raise _RefusedError(400, "The request needs one Host header field.")
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings and version == "1.0":
            raise _RefusedError(400, BAD_REQUEST)
        if codings not in ([], [b"chunked"]):
            raise _RefusedError(501, "Of transfer codings, this server knows chunked alone.")
        if len(self.pipeline) >= self.MAX_PIPELINED:
            raise _RefusedError(400, "Too many requests were sent ahead.")

    def _count_head(self, count: int) -> None:
        self._callbacks += 1
        self._head_bytes += count
        if self._head_bytes > self.MAX_HEAD_BYTES:
            raise _RefusedError(431, "The request's header fields are too large.")

    # Limits

    def _max_connections(self) -> int:
        return min(self.MAX_CONNECTIONS, _descriptors())

    def _exceeds_connections(self) -> bool:
        if len(self.connections) > self._max_connections():
            return True
        host = self.client[0] if self.client else ""
        if len(self.connections) <= self.MAX_CONNECTIONS_PER_ADDRESS or is_loopback(host):
            return False
        group = address_group(host)
        # Also those that have become WebSockets.
        clients = (getattr(connection, "client", None) for connection in self.connections)
        same = sum(client is not None and address_group(client[0]) == group for client in clients)
        return same > self.MAX_CONNECTIONS_PER_ADDRESS

    def _await_client(self) -> None:
        """Start the time limit of what the client has begun and not completed."""
        if self._timer is not None:
            return
        if self._part is _Part.HEAD:
            self._start_timer(self.HEAD_SECONDS, self._end_late_head)
        elif self._part is _Part.BODY:
            self._excused = self._is_held_up()
            self._start_timer(self.BODY_SECONDS, self._check_body)

    def _end_late_head(self) -> None:
        self._refuse(408, f"The request did not arrive within {self.HEAD_SECONDS:g} s.")

    def _check_body(self) -> None:
        """After each period: go on if the client has sent enough, or was not read from."""
        enough = self._period_bytes >= self.MIN_BODY_BYTES
        if enough or self._excused or self._is_held_up():
            self._excused = self._is_held_up()
            self._period_bytes = 0
            self._start_timer(self.BODY_SECONDS, self._check_body)
        else:
            self._refuse(408, "The request's body arrived too slowly.")

    def _is_held_up(self) -> bool:
        """Whether the client waits for this server, and not the other way round."""
        return self.flow.read_paused or self.cycle.waiting_for_100_continue

    def _drop(self, count: int) -> None:
        self._dropped += count
        if self._dropped > self.MAX_DRAIN_BYTES:
            self.transport.abort()

    def _refuse(self, status: int, sentence: str, fields: bytes = b"") -> None:
        """Answer with `sentence` where no other response has begun, and close."""
        receiving = self.cycle if self._part is _Part.BODY else None
        may_answer = all(
            cycle is receiving and not cycle.response_started for cycle in self._open_cycles()
        )
        self._disconnect_cycles()
        self._unset_keepalive_if_required()
        self._part = _Part.DISCARDED
        if not may_answer:
            self.transport.close()
            self._start_timer(self.LINGER_SECONDS, self.transport.abort)
            return
        body = f"{sentence}\n".encode()
        self.transport.write(
            b"%scontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
            b"%sconnection: close\r\n\r\n%s" % (STATUS_LINE[status], len(body), fields, body)
        )
        # Closed at once, a connection with unread data is reset, and the answer is lost.
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


def _unchunked(cycle: RequestResponseCycle, app: Any) -> Any:
    """`app` for a client that speaks HTTP/1.0, where a body of unknown length ends with the
    connection (RFC 9112, 6.1: no transfer coding); uvicorn would send it in chunks."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        unknown_length = False

        async def send_unchunked(message: Any) -> None:
            nonlocal unknown_length
            if message["type"] == "http.response.start":
                names = [bytes(name).lower() for name, _ in message.get("headers", ())]
                unknown_length = b"content-length" not in names
                if unknown_length:
                    cycle.chunked_encoding = False
            elif unknown_length:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_unchunked)

    return wrapped


def _has_unread(transport: asyncio.Transport) -> bool:
    """Whether the system holds bytes of the client that the event loop has not read."""
    with selectors.DefaultSelector() as selector:
        selector.register(transport.get_extra_info("socket").fileno(), selectors.EVENT_READ)
        return bool(selector.select(0))


@functools.cache
def _descriptors() -> int:
    """Raise this process's limit of open files as far as it may; how many are for connections."""
    try:
        import resource
    except ModuleNotFoundError:  # on Windows, which has no such limit
        return HttpProtocol.MAX_CONNECTIONS
    needed = HttpProtocol.MAX_CONNECTIONS + HttpProtocol.MAX_REFUSED_CONNECTIONS + OTHER_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = needed if hard == unlimited else min(needed, hard)
    if soft != unlimited and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return needed if soft == unlimited else max(soft - OTHER_DESCRIPTORS, 64)
