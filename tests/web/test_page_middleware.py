"""Tests PageMiddleware: paths, methods, logins, origins and sizes of requests."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.fake_engine import FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from tests.web.log_state import no_stack_trace as no_stack_trace
from tests.web.page_client import Caller, Stream, error_of, shown_message
from web import page_middleware
from web.access import AccessPolicy
from web.page_rules import RULES
from web.security_headers import HEADERS

pytestmark = pytest.mark.usefixtures("no_stack_trace")

MB = 1_000_000


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served() as url:
        yield url


@pytest.fixture(scope="module")
def closed() -> Iterator[str]:
    """A page with a login."""
    with served(AccessPolicy({"mei": "secret"})) as url:
        yield url


@contextmanager
def served(access: AccessPolicy | None = None) -> Iterator[str]:
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    with serving(manager, access) as url:
        yield url


def raw(url: str, *lines: str, body: bytes = b"") -> tuple[int, bytes]:
    """Sends a request that an HTTP library would not send; returns the status and response."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), 30) as line:
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        line.sendall(head + body)
        answer = b""
        while piece := line.recv(65_536):
            answer += piece
            if b"\r\n\r\n" in answer and b"connection: close" not in answer.lower():
                break
    return int(answer.split()[1]), answer


EXISTS = [
    ("GET", "/", 200), ("HEAD", "/", 200), ("GET", "/page/chat.js", 200),
    ("GET", "/page/chat.css", 200), ("GET", "/theme.css", 200), ("GET", "/login", 401),
    ("GET", "/docs", 200), ("GET", "/openapi.json", 200), ("POST", "/page/actions/stop", 400),
    ("GET", "/page/nothing.js", 404), ("GET", "/assets/nothing.js", 404),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "status"), EXISTS)
def test_middleware_allows_paths_on_the_list(url: str, method: str, path: str, status: int) -> None:
    answer = httpx.request(method, f"{url}{path}")
    assert answer.status_code == status
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


MISSING = [
    "/config", "/info", "/api", "/api/", "/gradio_api/run/send", "/gradio_api/queue/join",
    "/gradio_api/upload", "/gradio_api/file=/etc/passwd", "/file=/etc/passwd", "/queue/join",
    "/queue/data", "/upload", "/run/predict", "/proxy=https://evil.example", "/stream/x",
    "/component_server", "/reset", "/heartbeat/x", "/startup-events", "/robots.txt",
    "/manifest.json", "/monitoring", "/monitoring/x", "/deep_link", "/custom_component/x/y/z/w",
    "/page", "/page/", "/page/actions", "/page/actions/", "/page/actions/Send",
    "/page/actions/send/x", "/page/actions/a.b", "/page/x.py", "/page/vendor/x",
    "/page/vendor/a/b/c.js", "/page/actions/" + "a" * 41, "/page/events/", "//", "/index.html",
    "/static", "/static/", "/assets/a/b/c/d/e/f.js", "/login/", "/logout/", "/x", "/docs/",
    "/redoc", "/healthz", "/v2/models", "/v1x",
]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", MISSING)
def test_middleware_refuses_other_paths(url: str, path: str, method: str) -> None:
    assert httpx.request(method, f"{url}{path}").status_code == 404


@pytest.mark.parametrize(
    "path",
    ["/page/../web/login.py", "/page/..%2f..%2fapp.py", "/static/../../etc/passwd",
     "/assets/..%2f..%2f..%2fetc%2fpasswd", "/static/%2e%2e/%2e%2e/config", "/page/%2e%2e/x.js",
     "/page/..%5c..%5capp.py", "/page/chat.js%00.css", "/page/%0achat.js", "/%2e%2e/chat.js",
     "/static/x%0a", "/%ff"],
)  # fmt: skip
def test_middleware_refuses_path_traversal(url: str, path: str) -> None:
    status, _ = raw(url, f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close")
    assert status in (400, 404)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/"), ("PUT", "/"), ("DELETE", "/page/actions/stop"), ("GET", "/page/actions/stop"),
     ("GET", "/page/import"), ("GET", "/page/export"), ("GET", "/page/upload"),
     ("GET", "/page/events"), ("POST", "/page/events"), ("POST", "/page/chat.js"),
     ("GET", "/logout"), ("PUT", "/login"), ("OPTIONS", "/page/actions/send"), ("TRACE", "/"),
     ("PATCH", "/docs")],
)  # fmt: skip
def test_middleware_refuses_other_methods(url: str, method: str, path: str) -> None:
    answer = httpx.request(method, f"{url}{path}")
    assert answer.status_code == 405
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7860", "localhost.evil.example", "10.0.0.1", "", "a@localhost",
     "localhost/x", "xn--localhost", "127.0.0.1.evil.example"],
)  # fmt: skip
def test_middleware_refuses_foreign_host_names(url: str, host: str) -> None:
    """With DNS rebinding, a web page of that name could read what a local browser can."""
    for method, path in (("GET", "/"), ("GET", "/page/chat.js"), ("POST", "/page/actions/stop"),
                         ("GET", "/login"), ("POST", "/login")):  # fmt: skip
        answer = httpx.request(method, f"{url}{path}", headers={"host": host})
        assert answer.status_code == 421
        assert "set-cookie" not in answer.headers
    with pytest.raises(InvalidStatus):
        stream(url, Host=host)


def stream(url: str, cookie: dict[str, str] | None = None, path: str = "/page/events",
           **headers: str) -> None:  # fmt: skip
    """Opens a WebSocket with these headers.

    Raises:
        InvalidStatus: the server refuses it.
    """
    sent = {name.replace("_", "-"): value for name, value in headers.items()} | (cookie or {})
    parts = urlsplit(url)
    lines = [f"GET {path} HTTP/1.1", f"Host: {sent.pop('Host', parts.netloc)}",
             "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
             "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]  # fmt: skip
    status, _ = raw(url, *lines, *(f"{name}: {value}" for name, value in sent.items()))
    if status != 101:
        raise InvalidStatus(type("Answer", (), {"status_code": status})())


@pytest.mark.parametrize("hosts", [[], ["localhost", "localhost"], ["localhost", "evil.example"]])
def test_middleware_requires_one_host_header(url: str, hosts: list[str]) -> None:
    lines = [f"Host: {host}" for host in hosts]
    status, _ = raw(url, "GET / HTTP/1.1", *lines, "Connection: close")
    assert status in (400, 421)


def test_middleware_refuses_posts_and_streams_of_other_sites(url: str) -> None:
    own = urlsplit(url).netloc
    with Caller(url) as caller:
        foreign = [
            {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://localhost"},
            {"Origin": f"http://{own}.evil.example"}, {"Origin": f"http://evil.example@{own}"},
            {"Origin": f"file://{own}"}, {"Origin": ""}, {"Origin": "http://127.0.0.1:1"},
            {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"},
            {"Sec_Fetch_Site": "cross-site", "Origin": f"http://{own}"},
            {"Origin": "https://evil.example", "Sec_Fetch_Site": "same-origin"},
        ]  # fmt: skip
        for headers in foreign:
            for path in ("/page/actions/new_chat", "/page/import", "/page/export", "/login"):
                assert error_of(caller.post(path, "{}", **headers)) == (403, "forbidden")
            with pytest.raises(InvalidStatus):
                stream(url, caller.cookies, **headers)
        for headers in (
            {"Origin": f"http://{own}"}, {"Origin": f"https://{own}"}, {"Origin": f"HTTP://{own}"},
            {"Sec_Fetch_Site": "same-origin"}, {"Sec_Fetch_Site": "none"}, {},
        ):  # fmt: skip
            assert shown_message(caller.post("/page/actions/new_chat", "{}", **headers)) == ""
            stream(url, caller.cookies, **headers)
    # GET is allowed: other sites may link to the page, and their scripts cannot read the response.
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    answer = httpx.get(url, headers=headers)
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def sizes() -> Iterator[tuple[str, int]]:
    for path in ("send", "edit", "compare", "save_snippet"):
        yield f"/page/actions/{path}", 5 * MB
    yield "/page/actions/settings", MB
    yield "/page/import?more=0", 5 * MB
    yield "/page/export", MB
    yield "/login", 8_000


@pytest.mark.parametrize(("path", "most"), list(sizes()))
def test_middleware_limits_the_size_of_bodies(url: str, path: str, most: int) -> None:
    """A request is refused for its Content-Length, before its body is read."""
    status, answer = raw(
        url, f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {most + 1}",
        "X-Linly-Tab: x",
    )  # fmt: skip
    assert status == 413
    assert b"connection: close" in answer.lower()
    allowed = httpx.post(f"{url}{path}", content=b" " * most, headers={"X-Linly-Tab": "x"})
    assert allowed.status_code in (400, 401, 409, 413) if path == "/login" else (400, 409)
    assert path == "/login" or allowed.status_code != 413


@pytest.mark.parametrize(
    "lines",
    [[], ["Transfer-Encoding: chunked"], ["Content-Length: -1"], ["Content-Length: x"],
     ["Content-Length: 2", "Transfer-Encoding: chunked"], ["Content-Length: 1e3"],
     ["Content-Length: 9999999999999999999999"]],
)  # fmt: skip
def test_middleware_refuses_a_body_of_unknown_size(url: str, lines: list[str]) -> None:
    body = b"2\r\n{}\r\n0\r\n\r\n" if any("chunked" in line for line in lines) else b""
    status, _ = raw(
        url, "POST /page/actions/stop HTTP/1.1", "Host: localhost", "X-Linly-Tab: x",
        "Connection: close", *lines, body=body,
    )  # fmt: skip
    assert status in (400, 411)


def test_middleware_refuses_a_body_that_does_not_arrive(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body that arrives byte by byte would reserve its memory for ever."""
    monkeypatch.setattr(page_middleware, "BODY_SECONDS", 0.3)
    status, answer = raw(
        url, "POST /page/actions/stop HTTP/1.1", "Host: localhost", "Content-Length: 10",
        "Accept-Language: zh", "X-Linly-Tab: x", body=b"{",
    )  # fmt: skip
    assert status == 408
    assert b"connection: close" in answer.lower()
    assert "请求未能及时传完".encode() in answer  # not the message of `http_protocol`


def test_middleware_handles_a_disconnect_during_the_body(url: str) -> None:
    """It caused a stack trace in the terminal."""
    parts = urlsplit(url)
    for path in ("/page/actions/send", "/page/import", "/page/export", "/login"):
        with socket.create_connection((parts.hostname or "", parts.port or 0), 30) as line:
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n{{"
            line.sendall(head.encode())
    time.sleep(0.3)
    assert httpx.get(url).status_code == 200  # and `no_stack_trace` checks the logs


def test_middleware_large_bodies_do_not_block_messages(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few files that were announced and not sent blocked the messages of all visitors."""
    monkeypatch.setattr(page_middleware, "MAX_BODIES", 10 * MB)
    parts = urlsplit(url)
    lines = []
    try:
        for _ in range(2):
            line = socket.create_connection((parts.hostname or "", parts.port or 0), 30)
            lines.append(line)
            line.sendall(
                b"POST /page/import HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n\r\n{"
            )
        deadline = time.monotonic() + 60
        with Caller(url) as caller:
            while caller.import_text(" " * 200_000).status_code != 503:
                assert time.monotonic() < deadline
            assert error_of(caller.import_text(" " * 200_000)) == (503, "too_busy")
            assert shown_message(caller.send("hello")) == ""
    finally:
        for line in lines:
            line.close()
    with Caller(url) as caller:
        while caller.import_text(" " * 200_000).status_code == 503:
            assert time.monotonic() < deadline


# A request for each rule, and whether the path needs no login.
EXAMPLES = [
    ("GET", "/", False), ("WEBSOCKET", "/page/events", False),
    ("POST", "/page/actions/send", False), ("POST", "/page/actions/train_look", False),
    ("POST", "/page/actions/stop", False), ("POST", "/page/import", False),
    ("POST", "/page/export", False), ("POST", "/page/upload", False),
    ("GET", "/page/chat.js", True), ("GET", "/assets/x.js", True), ("GET", "/theme.css", True),
    ("GET", "/login", True), ("POST", "/login", True), ("POST", "/logout", False),
    ("GET", "/docs", False), ("GET", "/openapi.json", False),
    ("GET", "/static-offline-docs/x", False),
]  # fmt: skip


def test_middleware_rules_all_have_an_example_here() -> None:
    for rule in RULES:
        matched = [
            public for method, path, public in EXAMPLES
            if method in rule.methods and rule.path.fullmatch(path)
        ]  # fmt: skip
        assert rule.public in matched, rule


@pytest.mark.parametrize(("method", "path", "public"), EXAMPLES)
def test_middleware_requires_a_login(closed: str, method: str, path: str, public: bool) -> None:
    """On all paths except those that the login page needs."""
    if method == "WEBSOCKET":
        with pytest.raises(InvalidStatus):
            stream(closed, path=path)
        return
    answer = httpx.request(method, f"{closed}{path}")
    if public:
        assert answer.status_code in (200, 401, 404)
        assert answer.status_code != 401 or "<form" in answer.text
        return
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    if method == "POST":
        assert answer.json()["error"]["code"] == "login_required"
    else:
        assert "<form" in answer.text


@pytest.mark.parametrize("path", ["/page/upload", "/page/actions/train_start"])
def test_middleware_refuses_training_if_it_is_off(url: str, path: str) -> None:
    with Caller(url) as caller:
        assert error_of(caller.post(path, "{}")) == (403, "forbidden")


def test_each_response_has_its_own_nonce(url: str) -> None:
    policies = [httpx.get(url).headers["content-security-policy"] for _ in range(2)]
    nonces = {re.search(r"'nonce-([\w-]{22})'", policy)[1] for policy in policies}  # type: ignore[index]
    assert len(nonces) == 2


def test_middleware_allows_websockets_at_one_path_only(url: str) -> None:
    Stream(url).close()
    with pytest.raises(InvalidStatus):
        stream(url, path="/page/nothing")
    with pytest.raises(InvalidStatus):
        stream(url, path="/v1/models")
    with pytest.raises(InvalidStatus):
        stream(url, path="/")


def test_middleware_limits_the_requests_of_one_visitor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests over the visitor's limit are refused; other visitors are not affected."""
    monkeypatch.setattr(page_middleware, "VISITOR_BURST", 10)
    monkeypatch.setattr(page_middleware, "VISITOR_RATE", 0.01)
    with served() as url, Caller(url) as busy, Caller(url) as calm:
        answers = [busy.call("stop") for _ in range(20)]
        statuses = [answer.status_code for answer in answers]
        assert statuses == [200] * 9 + [429] * 11  # the stream was the first
        assert int(answers[-1].headers["retry-after"]) > 0
        assert error_of(answers[-1]) == (429, "too_many_requests")
        assert calm.call("stop").status_code == 200
