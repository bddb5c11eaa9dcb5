"""Events of a stream: when text came, how many tokens it was, and what counts as failed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from bench.peers.base import PeerError
from bench.streaming import ask_all, first_token, read_events

USAGE = {"choices": [], "usage": {"completion_tokens": 3}}
PAUSE = 0.02


def event(body: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(body)}\n".encode()


def text(piece: str | None, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": piece}, "finish_reason": reason}]}


def slowly(*bodies: dict[str, Any]) -> Iterator[bytes]:
    for body in bodies:
        time.sleep(PAUSE)
        yield event(body)
    yield b"\n"
    yield b"data: [DONE]\n"


def test_the_first_token_is_the_first_text_and_the_end_is_the_last_choice() -> None:
    events = slowly(text(None), text(""), text("a"), text("b"), text(None, "length"), USAGE, USAGE)
    reply = read_events(events, time.perf_counter())
    assert reply.text == "ab"
    assert reply.tokens == 3
    assert 3 * PAUSE <= reply.first < 5 * PAUSE
    assert 5 * PAUSE <= reply.seconds < 7 * PAUSE
    assert reply.speed == pytest.approx(2 / (reply.seconds - reply.first))


def test_usage_may_come_with_the_last_choice() -> None:
    last = {**text("b", "length"), "usage": {"completion_tokens": 2}}
    assert read_events(slowly(text("a"), last), time.perf_counter()).tokens == 2


@pytest.mark.parametrize(
    ("bodies", "said"),
    [
        ([text("a"), {"error": {"message": "no room"}}], "no room"),
        ([text("a")], "count of its tokens"),
        ([text(None), USAGE], "without text"),
    ],
)
def test_half_a_reply_is_a_failure(bodies: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(PeerError, match=said):
        read_events(slowly(*bodies), time.perf_counter())


class Handler(BaseHTTPRequestHandler):
    """Answers when as many requests have come as its server's barrier waits for."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.together.wait(timeout=10)  # type: ignore[attr-defined]
        self.send_response(500 if body["messages"] == "bad" else 200)
        self.end_headers()
        if body.get("stream"):
            self.wfile.write(event(text(body["messages"])) + event(USAGE))
        else:
            likeliest = [{"token": "a", "logprob": -0.5}][: body["top_logprobs"]]
            answer = {"choices": [{"logprobs": {"content": [{"top_logprobs": likeliest}]}}]}
            self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.together = threading.Barrier(request.param)  # type: ignore[attr-defined]
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{served.server_address[1]}"
    served.shutdown()
    thread.join()
    served.server_close()


@pytest.mark.parametrize("server", [3], indirect=True)
def test_all_are_asked_at_once_and_answered_in_order(server: str) -> None:
    replies = ask_all(server, [{"messages": word} for word in ("a", "b", "c")])
    assert [reply.text for reply in replies] == ["a", "b", "c"]


@pytest.mark.parametrize("server", [2], indirect=True)
def test_one_that_fails_fails_them_all(server: str) -> None:
    with pytest.raises(PeerError, match="a request failed"):
        ask_all(server, [{"messages": "a"}, {"messages": "bad"}])


@pytest.mark.parametrize("server", [1], indirect=True)
def test_first_tokens_come_with_their_log_probabilities(server: str) -> None:
    assert first_token(server, {"messages": "a"}, 1) == {"a": -0.5}
