"""ASGI middleware for the page: an allowlist of paths, and checks before a body is read.

It checks the Host header, the origin, the login, request rates and the size of the body. The API
and monitoring (/v1, /health, /metrics) have their own middleware.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.access import AccessPolicy
from web.chats.identity import visitor_cookie
from web.hosts import host_name
from web.login import Logins, login_page
from web.page_rules import MB, RejectedError, Rule, rule_for
from web.public_link.limits import PublicLink
from web.rate_limits import RequestLimiter, TooManyRequestsError
from web.visitor import KEY, Visitor, identify, is_secure, language_of

API_PATHS = re.compile(r"/(?:v1(?:/.*)?|health/?|metrics/?)", re.ASCII | re.DOTALL)
MAX_SMALL_BODY = 100_000  # bytes; larger bodies are files
MAX_BODIES = 100 * MB  # of all small bodies that are being read, and the same of all large ones
VISITOR_RATE, VISITOR_BURST = 20.0, 200  # posts and streams of one visitor: per second, at once
ADDRESS_RATE, ADDRESS_BURST = 200.0, 1_000  # the same for one address
BODY_SECONDS = 120.0  # for a complete body; `http_protocol` limits the time between its chunks


CODES = {
    400: "bad_request",
    401: "login_required",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    411: "length_required",
    413: "request_too_large",
    421: "unknown_host",
    429: "too_many_requests",
    503: "too_busy",
}


class _TooSlowError(Exception):
    """A body did not arrive in time. Not a LinlyError: the routes would handle it."""


class PageMiddleware:
    """ASGI middleware for all paths except the API's."""

    def __init__(
        self, app: ASGIApp, access: AccessPolicy, logins: Logins, link: PublicLink | None
    ) -> None:
        self._app = app
        self._access = access
        self._logins = logins
        self._link = link
        self._reading = {False: 0, True: 0}  # bytes of bodies being read, by whether they are large
        self._requests = RequestLimiter(VISITOR_RATE, VISITOR_BURST)
        self._addresses = RequestLimiter(ADDRESS_RATE, ADDRESS_BURST)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or API_PATHS.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            rule = self._check(scope)
            with self._reserve_body(rule, scope) as size:
                await self._app(scope, _bounded(receive, size), self._with_cookie(scope, send))
        except RejectedError as error:
            await self._refuse(error, scope, receive, send)
        except _TooSlowError:
            await self._refuse(RejectedError(408, "request_too_slow"), scope, receive, send)
        except ClientDisconnect:  # while the body was read; no response can arrive
            pass

    def _check(self, scope: Scope) -> Rule:
        """Returns the rule for a request, and stores its visitor in the scope.

        Raises:
            RejectedError
        """
        rule = rule_for(scope)
        headers = Headers(scope=scope)
        self._check_host(scope, headers)
        if scope["type"] == "websocket" or scope["method"] == "POST":
            _check_same_origin(headers)
        account = "" if rule.public else self._account(scope)
        visitor = scope[KEY] = identify(scope, self._access, account, self._link)
        if rule.trains and not visitor.may_train:
            raise RejectedError(403, "training_off")
        if scope["type"] == "websocket" or scope["method"] == "POST":
            self._check_rate(visitor)
        return rule

    def _check_rate(self, visitor: Visitor) -> None:
        """
        Raises:
            RejectedError: the visitor or the address sends too many requests.
        """
        try:
            self._requests.check(visitor.owner.id)
            if visitor.address or visitor.guest:
                self._addresses.check(visitor.address or "guests")
        except TooManyRequestsError as error:
            raise RejectedError(429, error.text) from error

    def _check_host(self, scope: Scope, headers: Headers) -> None:
        hosts = headers.getlist("host")
        through_link = self._access.through_link(scope)
        link_hosts = (self._link.host,) if self._link is not None and through_link else ()
        if len(hosts) != 1 or not self._access.hosts.allows(hosts[0], link_hosts):
            name = host_name(hosts[0]) if len(hosts) == 1 else ""
            raise RejectedError(421, "host_not_allowed", name=name[:100])

    def _account(self, scope: Scope) -> str:
        if not self._access.needs_login(scope):
            return ""
        account = self._logins.account(scope)
        if account is None:
            raise RejectedError(401, "password_required")
        return account

    @contextmanager
    def _reserve_body(self, rule: Rule, scope: Scope) -> Iterator[int]:
        """Reserves memory for the body while it is read; yields its size in bytes.

        Raises:
            RejectedError: the body is too large, or too many are being read.
        """
        size = _body_size(scope) if rule.max_bytes else 0
        if size > rule.max_bytes:
            raise RejectedError(413, "body_too_large", max_bytes=rule.max_bytes)
        is_large = size > MAX_SMALL_BODY  # slow uploads of files must not block messages
        if size and self._reading[is_large] + size > MAX_BODIES:
            raise RejectedError(503, "too_many_uploads")
        self._reading[is_large] += size
        try:
            yield size
        finally:
            self._reading[is_large] -= size

    def _with_cookie(self, scope: Scope, send: Send) -> Send:
        """Returns a `send` that adds the visitor's cookie to the response for the page."""
        if scope["type"] != "http" or scope["path"] != "/":
            return send

        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                secure = is_secure(scope, self._access, self._link)
                MutableHeaders(scope=message).append("set-cookie", visitor_cookie(scope, secure))
            await send(message)

        return send_with_cookie

    async def _refuse(
        self, error: RejectedError, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if scope["type"] == "websocket":
            await receive()  # websocket.connect
            await send({"type": "websocket.close", "code": 1008})
            return
        language = language_of(scope)
        if error.status == 401 and scope["method"] in ("GET", "HEAD"):
            response: Response = login_page(scope, self._access)
        elif scope["method"] == "POST":
            body = {"code": CODES[error.status], "message": error.text.sentence(language)}
            response = JSONResponse({"error": body}, error.status)
        else:
            response = PlainTextResponse(f"{error.text.sentence(language)}\n", error.status)
        if error.status == 429:
            response.headers["retry-after"] = "2"
        if error.status in (408, 413, 503):
            response.headers["connection"] = "close"  # instead of reading the body
        await response(scope, receive, send)


def _check_same_origin(headers: Headers) -> None:
    """Checks that no foreign web page sent the request with a script or a form. Clients other than
    browsers send neither header.

    Raises:
        RejectedError
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None and site not in ("same-origin", "none"):
        raise RejectedError(403, "foreign_origin")
    if origin is not None and not _same_host(origin, headers.get("host", "")):
        raise RejectedError(403, "foreign_origin_proxy")


def _same_host(origin: str, host: str) -> bool:
    """Whether an origin has this host. The scheme can differ behind a proxy."""
    try:
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()
    except ValueError:
        return False


def _body_size(scope: Scope) -> int:
    """
    Raises:
        RejectedError: there is no valid Content-Length header.
    """
    headers = Headers(scope=scope)
    length = headers.get("content-length", "")
    if "transfer-encoding" in headers or not re.fullmatch(r"\d{1,15}", length, re.ASCII):
        raise RejectedError(411, "content_length_required")
    return int(length)


def _bounded(receive: Receive, size: int) -> Receive:
    """Returns a `receive` that raises if the body of `size` bytes does not arrive in time."""
    remaining = size
    deadline: float | None = None

    async def counted() -> Message:
        nonlocal remaining, deadline
        if remaining <= 0:
            return await receive()
        loop = asyncio.get_running_loop()
        deadline = deadline or loop.time() + BODY_SECONDS
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError as error:
            raise _TooSlowError from error
        remaining -= len(message.get("body", b""))
        if not message.get("more_body"):
            remaining = 0
        return message

    return counted
