"""HTTP/1.1 framing: refuses ambiguous requests, and frames responses for HTTP/1.0 clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

BAD_REQUEST = "This is no valid HTTP request."
OTHER_VERSION = "This server speaks HTTP/1.1."
HTTP_2 = b"PRI * HTTP/2.0\r\n"  # from clients that take HTTP/2 for granted (RFC 9113, 3.4)


class RefusedError(Exception):
    """The request cannot be served; raised inside the parser's callbacks."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


def check_framing(version: str, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Checks that other software reads a request's head in the same way (RFC 9112, 6.3).

    Raises:
        RefusedError
    """
    if version not in ("1.0", "1.1"):
        raise RefusedError(505, OTHER_VERSION)
    hosts = sum(name == b"host" for name, _ in headers)
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise RefusedError(400, "The request needs one Host header field.")
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if codings and version == "1.0":
        raise RefusedError(400, BAD_REQUEST)
    if codings not in ([], [b"chunked"]):
        raise RefusedError(501, "Of transfer codings, this server knows chunked alone.")


def refusal_of(error: Exception, data: bytes) -> RefusedError:
    """Returns the reason for the parser's `error` in `data`."""
    if isinstance(error.__context__, RefusedError):
        return error.__context__
    if data.startswith(HTTP_2):
        return RefusedError(505, OTHER_VERSION)
    return RefusedError(400, BAD_REQUEST)


def may_open_websocket(method: bytes, version: str, headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a request that offers the WebSocket protocol may open one (RFC 6455, 4.1): it is a
    GET of HTTP/1.1 without a body. Other offers are ignored."""
    has_body = any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in headers
    )
    return method == b"GET" and version == "1.1" and not has_body


def framing_head(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Returns the head of a request whose body has the same framing, and no other header fields."""
    framing = [
        name + b": " + value + b"\r\n"
        for name, value in headers
        if name in (b"content-length", b"transfer-encoding")
    ]
    return b"".join([b"POST / HTTP/1.1\r\n", *framing, b"\r\n"])


def unchunked(cycle: RequestResponseCycle, app: Any) -> Any:
    """Returns `app` for an HTTP/1.0 client: a body of unknown length is sent without chunks, and
    ends with the connection (RFC 9112, 6.1). uvicorn would send it in chunks."""

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
