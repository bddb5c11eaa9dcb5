"""Tests deploy/nginx.conf with a real nginx in front of two small servers.

Debian's nginx is older than the file requires, and does not support `resolve`: the tests replace
names by addresses. `resolve` itself was tested by hand with nginx 1.30.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
from platformdirs import user_cache_path

from model.config.settings import APP_NAME
from tests.deployed import DEPLOY

RESOLVE_VERSION = (1, 27, 3)  # the first one that supports `resolve`
TEMPORARY_FOLDERS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class Page(ThreadingHTTPServer):
    """A server that responds with its port and the forwarded headers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.name = str(self.server_port)
        Thread(target=self.serve_forever, daemon=True).start()

    def die(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Page

    def do_GET(self) -> None:
        if self.headers["Upgrade"]:
            self.upgrade()
            return
        self.send_response(200)
        self.send_header("X-Connection", self.headers["Connection"] or "none")
        self.send_header("Set-Cookie", "linly_visitor=one")
        self.send_header("X-Scheme", self.headers["X-Forwarded-Proto"])
        self.send_header("X-Address", self.headers["X-Forwarded-For"])
        self.end_headers()
        self.wfile.write(self.server.name.encode())

    def upgrade(self) -> None:
        """Switches to a protocol that sends the port, and echoes all it receives."""
        self.protocol_version = "HTTP/1.1"
        self.send_response(101)
        self.send_header("Upgrade", self.headers["Upgrade"])
        self.send_header("Connection", self.headers["Connection"])
        self.end_headers()
        self.wfile.write(self.server.name.encode())
        while received := self.rfile.read1():
            self.wfile.write(received)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Logs nothing."""


@pytest.fixture
def nginx() -> str:
    """The path of nginx. Without it, tests fail in CI, else they skip."""
    folders = [os.environ["PATH"], "/usr/sbin", str(user_cache_path(APP_NAME) / "nginx/usr/sbin")]
    found = shutil.which("nginx", path=os.pathsep.join(folders))
    if found is None and os.environ.get("CI"):
        pytest.fail("CI must run the tests with nginx, and there is none: scripts/install-nginx")
    if found is None:
        pytest.skip("there is no nginx on this machine: scripts/install-nginx")
    return found


@pytest.fixture
def pages() -> Iterator[list[Page]]:
    both = [Page(), Page()]
    yield both
    for page in both:
        page.die()


def configuration(folder: Path, port: int = 7860, pages: list[str] | None = None) -> Path:
    """Writes a copy of the file that writes into `folder`, with the addresses of `pages`."""
    text = (DEPLOY / "nginx.conf").read_text()
    text = text.replace("/tmp/nginx.pid", str(folder / "nginx.pid"))  # noqa: S108
    text = text.replace("listen 7860", f"listen 127.0.0.1:{port}")
    paths = "".join(f"    {name}_temp_path {folder}/{name};\n" for name in TEMPORARY_FOLDERS)
    text = text.replace("http {\n", f"http {{\n{paths}")
    for number, page in enumerate(pages or [], 1):
        text = text.replace(f"chat-{number}:7860 resolve", f"127.0.0.1:{page}")
    path = folder / "nginx.conf"
    path.write_text(text)
    return path


@contextlib.contextmanager
def proxied(nginx: str, folder: Path, pages: list[Page]) -> Iterator[str]:
    """Runs nginx in front of `pages`, and yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = configuration(folder, port, [page.name for page in pages])
    command = [nginx, "-e", "stderr", "-c", str(path), "-g", "daemon off;"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def visitor(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, trust_env=False)


def test_nginx_accepts_the_file(nginx: str, tmp_path: Path) -> None:
    output = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=True).stderr
    version = tuple(int(part) for part in re.findall(r"\d+", output)[:3])
    addresses = None if version >= RESOLVE_VERSION else ["7861", "7862"]
    path = configuration(tmp_path, pages=addresses)
    command = [nginx, "-e", "stderr", "-t", "-c", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_addresses_are_resolved_again() -> None:
    """A new container may have another address, and could not be reached any more."""
    text = (DEPLOY / "nginx.conf").read_text()
    assert re.search(r"resolver 127\.0\.0\.11 valid=5s ", text)
    for name in ("page", "api"):
        (upstream,) = re.findall(rf"upstream {name} {{(.+?)}}", text, re.DOTALL)
        assert f"zone {name} " in upstream
        assert re.findall(r"server (\S+) resolve ", upstream) == ["chat-1:7860", "chat-2:7860"]


def test_the_first_request_goes_to_the_same_page_as_later_ones(
    nginx: str, tmp_path: Path, pages: list[Page]
) -> None:
    """The first one was routed by address, and later ones by the cookie."""
    used = set()
    with proxied(nginx, tmp_path, pages) as url:
        for _ in range(24):
            with visitor(url) as http:
                first = http.get("/?chat=1").text
                assert {http.get(path).text for path in ("/config", "/", "/a?b")} == {first}
            used.add(first)
    assert used == {page.name for page in pages}


def test_clients_without_cookies_stay_with_a_page_too(
    nginx: str, tmp_path: Path, pages: list[Page]
) -> None:
    with proxied(nginx, tmp_path, pages) as url:
        assert len({httpx.get(f"{url}/config", trust_env=False).text for _ in range(8)}) == 1
        programs = {httpx.get(f"{url}/v1/models", trust_env=False).text for _ in range(8)}
    assert programs == {page.name for page in pages}


def test_a_tab_s_stream_goes_through_and_stays_with_its_page(
    nginx: str, tmp_path: Path, pages: list[Page]
) -> None:
    """A WebSocket needs two headers that a proxy does not forward by default."""
    with proxied(nginx, tmp_path, pages) as url:
        for _ in range(8):
            with visitor(url) as http:
                plain = http.get("/")
                assert plain.headers["X-Connection"] == "none"
                cookie = f"linly_page={http.cookies['linly_page']}"
            lines = ["GET /page/events?chat=1 HTTP/1.1", "Host: localhost", "Upgrade: websocket",
                     "Connection: Upgrade", f"Cookie: {cookie}", "", ""]  # fmt: skip
            port = int(url.rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port), 20) as line:
                line.sendall("\r\n".join(lines).encode())
                received = b""
                while not received.endswith(plain.content):
                    data = line.recv(4096)
                    assert data, received
                    received += data
                assert received.startswith(b"HTTP/1.1 101 ")
                line.sendall(b"both ways")
                assert line.recv(4096) == b"both ways"


def test_the_cookie_is_secure_with_https_and_set_once(
    nginx: str, tmp_path: Path, pages: list[Page]
) -> None:
    with proxied(nginx, tmp_path, pages) as url, visitor(url) as http:
        plain = http.get("/")
        own, added = plain.headers.get_list("Set-Cookie")
        assert own == "linly_visitor=one"
        assert re.fullmatch(r"linly_page=\w{32}; Path=/; HttpOnly; SameSite=Lax", added)
        assert http.get("/").headers.get_list("Set-Cookie") == [own]
        http.cookies.clear()
        safe = http.get("/", headers={"X-Forwarded-Proto": "https"})
        assert safe.headers.get_list("Set-Cookie")[1].endswith("; Secure")
        assert (plain.headers["X-Scheme"], safe.headers["X-Scheme"]) == ("http", "https")


def test_a_visitor_cannot_choose_an_address(nginx: str, tmp_path: Path, pages: list[Page]) -> None:
    """The page uses the first address in the header, also for limits on guessing."""
    with proxied(nginx, tmp_path, pages) as url, visitor(url) as http:
        answer = http.get("/", headers={"X-Forwarded-For": "203.0.113.9"})
        assert answer.headers["X-Address"] == "127.0.0.1"


def test_a_visitor_whose_page_died_is_sent_to_the_other(
    nginx: str, tmp_path: Path, pages: list[Page]
) -> None:
    with proxied(nginx, tmp_path, pages) as url, visitor(url) as http:
        first = http.get("/").text
        (dead,) = (page for page in pages if page.name == first)
        dead.die()
        assert {http.get("/").text for _ in range(3)} == {p.name for p in pages if p is not dead}
