"""The page's middleware: what is not on its list does not exist, and each request is checked before
anything of it is read: the name it was sent to, the page it comes from, the login, its size.

The API and what watches over the program (/v1, /health, /metrics) have middleware of their own.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model.errors import LinlyError
from model.translations import LocalizedText
from web.access import AccessPolicy
from web.chats.identity import visitor_cookie
from web.hosts import host_name
from web.login import Logins, login_page
from web.public_link.limits import PublicLink
from web.rate_limits import RequestLimiter, TooManyRequestsError
from web.visitor import KEY, Visitor, identify, is_secure, language_of

MB = 1_000_000
API_PATHS = re.compile(r"/(?:v1(?:/.*)?|health/?|metrics/?)", re.ASCII | re.DOTALL)
SMALL = 100_000  # bytes of a body that is no file
MAX_BODIES = 100 * MB  # of all small requests that are being read; and of all large ones
VISITOR_RATE, VISITOR_BURST = 20.0, 200  # posts and streams of one visitor: a second, at once
ADDRESS_RATE, ADDRESS_BURST = 200.0, 1_000  # and of one address
BODY_SECONDS = 120.0  # for a whole body; between its pieces, the server itself has less patience


@dataclass(frozen=True)
class Rule:
    """A path that exists, with the methods that it is for.

    `max_bytes` bounds a body. `public` paths need no login, `trains` is for those who may train.
    """

    path: re.Pattern[str]
    methods: tuple[str, ...] = ("GET", "HEAD")
    max_bytes: int = 0
    public: bool = False
    trains: bool = False


NAME = r"[\w.-]+"  # of a file; ".." leads nowhere, as `_has_dots` is asked first


def _rule(path: str, *methods: str, max_bytes: int = 0, public: bool = False,
          trains: bool = False) -> Rule:  # fmt: skip
    return Rule(re.compile(path, re.ASCII), methods or ("GET", "HEAD"), max_bytes, public, trains)


RULES = (
    _rule(r"/"),
    _rule(r"/page/events", "WEBSOCKET"),
    _rule(r"/page/actions/(send|edit|compare|save_snippet)", "POST", max_bytes=5 * MB),
    _rule(r"/page/actions/train_(look|start|cancel|chat)", "POST", max_bytes=MB, trains=True),
    _rule(r"/page/actions/[a-z_]{1,40}", "POST", max_bytes=MB),
    _rule(r"/page/import", "POST", max_bytes=5 * MB),
    _rule(r"/page/export", "POST", max_bytes=MB),
    _rule(r"/page/upload", "POST", max_bytes=50 * MB, trains=True),
    _rule(rf"/page/(vendor/{NAME}/)?{NAME}\.(js|mjs|css)", public=True),
    _rule(rf"/(assets|static)/({NAME}/){{0,4}}{NAME}", public=True),
    _rule(r"/(theme\.css|favicon\.ico)", public=True),
    _rule(r"/login", public=True),
    _rule(r"/login", "POST", max_bytes=8_000, public=True),
    _rule(r"/logout", "POST", max_bytes=8_000),
    _rule(rf"/docs|/openapi\.json|/static-offline-docs/{NAME}"),
)


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


class GateError(LinlyError):
    """A request is refused before anything of it is read, with an HTTP status."""

    def __init__(self, status: int, text: str | LocalizedText, **facts: object) -> None:
        super().__init__(text, **facts)
        self.status = status


class _TooSlowError(Exception):
    """A body did not come in time. No error of the program's: the routes would answer those."""


class PageMiddleware:
    """ASGI middleware for everything but the API."""

    def __init__(
        self, app: ASGIApp, access: AccessPolicy, logins: Logins, link: PublicLink | None
    ) -> None:
        self._app = app
        self._access = access
        self._logins = logins
        self._link = link
        self._reading = {False: 0, True: 0}  # bytes of bodies on their way: small ones, large ones
        self._requests = RequestLimiter(VISITOR_RATE, VISITOR_BURST)
        self._addresses = RequestLimiter(ADDRESS_RATE, ADDRESS_BURST)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or API_PATHS.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            rule = self._check(scope)
            with self._room(rule, scope) as size:
                await self._app(scope, _bounded(receive, size), self._with_cookie(scope, send))
        except GateError as error:
            await self._refuse(error, scope, receive, send)
        except _TooSlowError:
            late = GateError(408, "request_too_slow")
            await self._refuse(late, scope, receive, send)
        except ClientDisconnect:  # while its body was read: no answer would arrive
            pass

    def _check(self, scope: Scope) -> Rule:
        """The rule for a request that is let in.

        Raises:
            GateError
        """
        rule = _rule_for(scope)
        headers = Headers(scope=scope)
        self._check_host(scope, headers)
        if scope["type"] == "websocket" or scope["method"] == "POST":
            _check_same_origin(headers)
        account = ""
        if not rule.public:
            account = self._account(scope)
        scope[KEY] = identify(scope, self._access, account, self._link)
        if rule.trains and not scope[KEY].may_train:
            raise GateError(403, "training_off")
        if scope["type"] == "websocket" or scope["method"] == "POST":
            self._count(scope[KEY])
        return rule

    def _count(self, visitor: Visitor) -> None:
        """
        Raises:
            GateError: this is more than one visitor, or one address, may ask for.
        """
        try:
            self._requests.check(visitor.owner.id)
            if visitor.address or visitor.guest:
                self._addresses.check(visitor.address or "guests")
        except TooManyRequestsError as error:
            raise GateError(429, error.text) from error

    def _check_host(self, scope: Scope, headers: Headers) -> None:
        asked = headers.getlist("host")
        through = self._access.through_link(scope)
        more = (self._link.host,) if self._link is not None and through else ()
        if len(asked) != 1 or not self._access.hosts.allows(asked[0], more):
            name = host_name(asked[0]) if len(asked) == 1 else ""
            raise GateError(
                421, "host_not_allowed", name=name[:100],
            )  # fmt: skip

    def _account(self, scope: Scope) -> str:
        if not self._access.needs_login(scope):
            return ""
        account = self._logins.account(scope)
        if account is None:
            raise GateError(401, "password_required")
        return account

    @contextmanager
    def _room(self, rule: Rule, scope: Scope) -> Iterator[int]:
        """Around the reading of a body of known size.

        Raises:
            GateError: it is too large, or too many are being read.
        """
        size = _body_size(scope) if rule.max_bytes else 0
        if size > rule.max_bytes:
            raise GateError(413, "body_too_large", max_bytes=rule.max_bytes)
        large = size > SMALL  # files that take long leave messages their room
        if size and self._reading[large] + size > MAX_BODIES:
            raise GateError(503, "too_many_uploads")
        self._reading[large] += size
        try:
            yield size
        finally:
            self._reading[large] -= size

    def _with_cookie(self, scope: Scope, send: Send) -> Send:
        """Each browser gets its cookie with the page."""
        if scope["type"] != "http" or scope["path"] != "/":
            return send

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                secure = is_secure(scope, self._access, self._link)
                MutableHeaders(scope=message).append("set-cookie", visitor_cookie(scope, secure))
            await send(message)

        return sending

    async def _refuse(self, error: GateError, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()  # its beginning
            await send({"type": "websocket.close", "code": 1008})
            return
        language = language_of(scope)
        if error.status == 401 and scope["method"] in ("GET", "HEAD"):
            answer: Response = login_page(scope, self._access)
        elif scope["method"] == "POST":
            body = {"code": CODES[error.status], "message": error.text.sentence(language)}
            answer = JSONResponse({"error": body}, error.status)
        else:
            answer = PlainTextResponse(f"{error.text.sentence(language)}\n", error.status)
        if error.status == 429:
            answer.headers["retry-after"] = "2"
        if error.status in (408, 413, 503):
            answer.headers["connection"] = "close"  # the body is not waited for
        await answer(scope, receive, send)


def _rule_for(scope: Scope) -> Rule:
    """
    Raises:
        GateError: there is no such path, or it is for other methods.
    """
    method = "WEBSOCKET" if scope["type"] == "websocket" else scope["method"]
    found = [rule for rule in RULES if rule.path.fullmatch(scope["path"])]
    if not found or ".." in scope["path"]:
        raise GateError(404, "not_found")
    rule = next((rule for rule in found if method in rule.methods), None)
    if rule is None:
        raise GateError(405, "method_not_allowed", method=method)
    return rule


def _check_same_origin(headers: Headers) -> None:
    """That another web page's script, or its form, did not send this. Programs send neither header.

    Raises:
        GateError
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None and site not in ("same-origin", "none"):
        raise GateError(403, "foreign_origin")
    if origin is not None and not _same_host(origin, headers.get("host", "")):
        raise GateError(
            403, "foreign_origin_proxy",
        )  # fmt: skip


def _same_host(origin: str, host: str) -> bool:
    """Whether an origin is the page's own. Its scheme is the proxy's business."""
    try:
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()
    except ValueError:
        return False


def _body_size(scope: Scope) -> int:
    """
    Raises:
        GateError: no Content-Length tells it.
    """
    headers = Headers(scope=scope)
    length = headers.get("content-length", "")
    if "transfer-encoding" in headers or not re.fullmatch(r"\d{1,15}", length, re.ASCII):
        raise GateError(411, "content_length_required")
    return int(length)


def _bounded(receive: Receive, size: int) -> Receive:
    """`receive` for a body of this many bytes, which has to come in time."""
    left = size
    deadline: float | None = None

    async def counted() -> Message:
        nonlocal left, deadline
        if left <= 0:
            return await receive()
        loop = asyncio.get_running_loop()
        deadline = deadline or loop.time() + BODY_SECONDS
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError as error:
            raise _TooSlowError from error
        left -= len(message.get("body", b""))
        if not message.get("more_body"):
            left = 0
        return message

    return counted
