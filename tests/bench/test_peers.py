"""Peers: their child processes, the OpenAI client, and the transformers worker."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bench.common import PeerError
from bench.peers.base import ChildProcess
from bench.peers.openai_client import ask_all, first_token, read_events
from tests.tiny_model import make_adapter

ECHO = "import sys; [print(line.strip() * 2, flush=True) for line in sys.stdin]"
DIES = "import sys; print('up', flush=True); sys.exit('no\\nroom left')"
USAGE = {"choices": [], "usage": {"completion_tokens": 3}}
TOKENS = 6

StartChild = Callable[[str], ChildProcess]


@pytest.fixture
def start_child(tmp_path: Path) -> Iterator[StartChild]:
    """Starts a Python program; all of them are stopped after the test."""
    children: list[ChildProcess] = []

    def begin(program: str) -> ChildProcess:
        children.append(ChildProcess([sys.executable, "-c", program], tmp_path / "log"))
        return children[-1]

    yield begin
    for child in children:
        child.stop()


def test_child_reads_and_writes_lines(start_child: StartChild) -> None:
    child = start_child(ECHO)
    child.write("ab")
    assert child.read() == "abab"


def test_child_that_ended_is_an_error_with_its_last_line(start_child: StartChild) -> None:
    child = start_child(DIES)
    assert child.read() == "up"
    with pytest.raises(PeerError, match=r"its process ended \(room left\)"):
        child.read()
    with pytest.raises(PeerError, match="room left"):
        child.wait_for("http://127.0.0.1:9/", seconds=30)


def test_paused_child_does_nothing_until_it_resumes(start_child: StartChild) -> None:
    child = start_child(ECHO)
    child.pause()
    until = time.monotonic() + 10
    status = Path(f"/proc/{child.pid}/stat")
    while status.read_text(encoding="ascii").split()[2] != "T":  # T: stopped
        assert time.monotonic() < until
    child.write("ab")
    child.resume()
    assert child.read() == "abab"


def test_paused_child_can_be_stopped(start_child: StartChild) -> None:
    child = start_child(ECHO)
    child.pause()
    child.stop()
    assert not Path(f"/proc/{child.pid}").exists()


def test_waiting_for_a_child_has_a_limit(start_child: StartChild) -> None:
    with pytest.raises(PeerError, match="did not answer within 0 s"):
        start_child(ECHO).wait_for("http://127.0.0.1:9/", seconds=0)


def event(body: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(body)}\n".encode()


def text(piece: str | None, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": piece}, "finish_reason": reason}]}


def stream(*bodies: dict[str, Any]) -> list[bytes]:
    return [*map(event, bodies), b"\n", b"data: [DONE]\n"]


def test_first_token_is_the_first_text_and_the_end_is_the_last_choice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clock advances by a second with each event."""
    monkeypatch.setattr("time.perf_counter", iter(range(100, 200)).__next__)
    events = stream(text(None), text(""), text("a"), text("b"), text(None, "length"), USAGE, USAGE)
    reply = read_events(events, began=99)
    monkeypatch.undo()
    assert (reply.text, reply.tokens) == ("ab", 3)
    assert (reply.first, reply.seconds, reply.speed) == (3, 5, 1)


def test_usage_may_come_with_the_last_choice() -> None:
    last = {**text("b", "length"), "usage": {"completion_tokens": 2}}
    assert read_events(stream(text("a"), last), 0).tokens == 2


@pytest.mark.parametrize(
    ("bodies", "message"),
    [
        ([text("a"), {"error": {"message": "no room"}}], "no room"),
        ([text("a")], "count of its tokens"),
        ([text(None), USAGE], "without text"),
    ],
)
def test_incomplete_replies_are_errors(bodies: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(PeerError, match=message):
        read_events(stream(*bodies), 0)


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
def test_client_sends_all_at_once_and_returns_replies_in_order(server: str) -> None:
    replies = ask_all(server, [{"messages": word} for word in ("a", "b", "c")])
    assert [reply.text for reply in replies] == ["a", "b", "c"]


@pytest.mark.parametrize("server", [2], indirect=True)
def test_client_fails_if_one_request_fails(server: str) -> None:
    with pytest.raises(PeerError, match="a request failed"):
        ask_all(server, [{"messages": "a"}, {"messages": "bad"}])


@pytest.mark.parametrize("server", [1], indirect=True)
def test_client_reads_log_probabilities_of_first_tokens(server: str) -> None:
    assert first_token(server, {"messages": "a"}, 1) == {"a": -0.5}


@pytest.fixture(scope="module")
def make_worker(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Any:
    """Makes workers with two adapters that change replies."""
    parent = tmp_path_factory.mktemp("two")
    targets = ["q_proj", "v_proj", "down_proj"]
    adapters = [
        make_adapter(tiny_folder, parent / name, seed=seed, r=4, target_modules=targets)
        for seed, name in enumerate(("one", "two"), start=1)
    ]

    def make() -> Any:
        from bench.peers.hf import Worker, load_hf_model

        return Worker(tiny_folder, load_hf_model(tiny_folder, "float32")[0], adapters)

    return make


def question(*texts: str, adapter: int | None = None) -> dict[str, Any]:
    roles = ("user", "assistant")
    turns = [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]
    return {"turns": turns, "tokens": TOKENS, "adapter": adapter, "exact": True}


def test_hf_worker_replies_in_a_mixed_batch_as_to_each_alone(make_worker: Any) -> None:
    worker = make_worker()
    mixed = [
        question("Who is the quick brown fox?"),
        question("x = 1", adapter=0),
        question("The lazy dog.", adapter=1),
    ]
    together = worker.answer(mixed)
    assert together == [worker.answer([one])[0] for one in mixed]
    assert len(set(together)) == 3


def test_hf_worker_replies_the_same_with_a_cache(
    make_worker: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Turn two of a chat, a question to another adapter between, and a shorter one."""
    chat = ["Hello dog", "Hello fox", "And the quick one?"]
    questions = [
        question(*chat[:1]),
        question(*chat),
        question(*chat, adapter=1),
        question(*chat[:1], adapter=1),
    ]
    caching = make_worker()
    replies = [caching.answer([one]) for one in questions]
    capsys.readouterr()
    assert replies == [make_worker().answer([one]) for one in questions]
    assert capsys.readouterr().out == ".\n" * TOKENS * len(questions)
