"""Tests the flags in deploy/router's image with the router itself in front of two fake vLLMs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.deployed import DEPLOY, container, instructions

SCRIPTS = Path(sys.executable).parent
ROUTER = shutil.which("vllm-router", path=os.pathsep.join([str(SCRIPTS), os.environ["PATH"]]))
pytestmark = pytest.mark.skipif(ROUTER is None, reason="vllm-router is not installed")

KEY = "the-servers-key"
STREAM = 'data: {"choices": [{"text": "%s", "token_ids": [5]}]}\n\ndata: {"usage": {}}\n\n'


class Replica(ThreadingHTTPServer):
    """A fake vLLM that responds with its port and records requests. With a `key`, it requires the
    key for the same paths as vLLM."""

    daemon_threads = True

    def __init__(self) -> None:
        self.requests: list[dict[str, object]] = []
        self.key: str | None = None
        super().__init__(("127.0.0.1", 0), Handler)
        self.name = str(self.server_port)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def die(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Replica

    def do_GET(self) -> None:
        if not self._check_key():
            return
        self._answer(200, json.dumps({"data": [{"id": "base"}, {"id": "lighthouse"}]}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._check_key():
            return
        self.server.requests.append({"path": self.path, **body})
        if body.get("prompt") == [429]:
            self._answer(429, '{"error": {"message": "busy"}}', {"Retry-After": "7"})
        elif body.get("stream"):
            self._answer(200, STREAM % self.server.name, {"Content-Type": "text/event-stream"})
        else:
            self._answer(200, self.server.name)

    def _check_key(self) -> bool:
        key, sent = self.server.key, self.headers["Authorization"]
        if key is None or not self.path.startswith("/v1") or sent == f"Bearer {key}":
            return True
        self._answer(401, '{"error": "Unauthorized"}')
        return False

    def _answer(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(text)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Logs nothing."""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def command(port: int, urls: list[str], key: str | None = None) -> list[str]:
    """Returns the image's command with local addresses, and the key as the manifests pass it."""
    (line,) = instructions(DEPLOY / "router" / "Dockerfile", "ENTRYPOINT")
    _, *flags = json.loads(line)
    own = {"--host": "127.0.0.1", "--port": str(port)}
    own |= {"--prometheus-host": "127.0.0.1", "--prometheus-port": str(free_port())}
    for flag, value in own.items():
        flags[flags.index(flag) + 1] = value
    key_args = [arg for arg in container("router")["args"] if "$(VLLM_API_KEY)" in arg]
    keys = [arg.replace("$(VLLM_API_KEY)", key) for arg in key_args] if key else []
    return [str(ROUTER), *flags, *keys, "--worker-urls", *urls]


@contextlib.contextmanager
def routing(replicas: list[Replica], key: str | None = None) -> Iterator[httpx.Client]:
    port = free_port()
    urls = [f"http://127.0.0.1:{replica.name}" for replica in replicas]
    process = subprocess.Popen(
        command(port, urls, key), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as http:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                with contextlib.suppress(httpx.TransportError):
                    if http.get("/readiness").status_code == 200:
                        break
                time.sleep(0.1)
            yield http
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def replicas() -> Iterator[list[Replica]]:
    both = [Replica(), Replica()]
    yield both
    for replica in both:
        replica.die()


def ask(http: httpx.Client, chat: str, **more: object) -> httpx.Response:
    body = {"model": "lighthouse", "prompt": [1, 2, 3], "stream": False, **more}
    return http.post("/v1/completions", json=body, headers={"X-Session-Id": chat})


@pytest.mark.slow
def test_a_chat_stays_with_a_replica_and_moves_when_it_dies(replicas: list[Replica]) -> None:
    with routing(replicas) as http:
        chats = [f"chat-{number}" for number in range(6)]
        first = {chat: ask(http, chat).text for chat in chats}
        assert sorted(first.values()).count(replicas[0].name) == 3
        assert {chat: ask(http, chat).text for chat in chats} == first
        dead, other = replicas if first["chat-0"] == replicas[0].name else replicas[::-1]
        dead.die()
        after = [ask(http, chat) for chat in chats]
        assert {(response.status_code, response.text) for response in after} == {(200, other.name)}


@pytest.mark.slow
def test_requests_and_responses_pass_unchanged(replicas: list[Replica]) -> None:
    with routing(replicas) as http:
        response = ask(http, "a", stream=True, top_k=5, adapter_scale=0.5, return_token_ids=True)
        assert response.text in {STREAM % replica.name for replica in replicas}
        (request,) = (request for replica in replicas for request in replica.requests)
        assert request.items() >= {"prompt": [1, 2, 3], "model": "lighthouse", "top_k": 5}.items()
        assert request.items() >= {"adapter_scale": 0.5, "return_token_ids": True}.items()
        assert [m["id"] for m in http.get("/v1/models").json()["data"]] == ["base", "lighthouse"]
        busy = ask(http, "a", prompt=[429])
        assert (busy.status_code, busy.headers["Retry-After"]) == (429, "7")


@pytest.mark.slow
def test_an_adapter_is_loaded_where_its_chat_is(replicas: list[Replica]) -> None:
    with routing(replicas) as http:
        for chat in ("a", "b", "c", "d"):
            home = ask(http, chat).text
            body = {"lora_name": chat, "lora_path": f"/app/adapters/{chat}"}
            loaded = http.post("/v1/load_lora_adapter", json=body, headers={"X-Session-Id": chat})
            assert (loaded.status_code, loaded.text) == (200, home)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter"])
def test_the_router_s_key_is_sent_to_routes_that_load_adapters(
    replicas: list[Replica], path: str
) -> None:
    """The router forwards a client's key for completions and models only. Without its own key,
    replicas with a key load no adapters, and chats with an adapter get no replies."""
    for replica in replicas:
        replica.key = KEY
    with routing(replicas, KEY) as http:
        assert ask(http, "a").status_code == 401  # the router's key is not used for completions
        http.headers["Authorization"] = f"Bearer {KEY}"
        assert http.get("/v1/models").status_code == 200
        home = ask(http, "a").text
        body = {"lora_name": "mine", "lora_path": "/app/adapters/mine"}
        loaded = http.post(path, json=body, headers={"X-Session-Id": "a"})
        assert (loaded.status_code, loaded.text) == (200, home)
