"""Client of OpenAI-compatible servers that notes when text arrives.

Plain sockets and threads instead of a client library, because the client shares the cores with the
server that it measures.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterable, Sequence
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from bench.common import PeerError
from bench.peers.base import PeerReply

Json = dict[str, Any]

MAX_SECONDS = 600.0
CHAT_PATH, COMPLETION_PATH = "/v1/chat/completions", "/v1/completions"
DATA = b"data: "
DONE = b"[DONE]"
FAILURES = (OSError, ValueError, KeyError, PeerError, http.client.HTTPException)


def connect(address: str) -> http.client.HTTPConnection:
    parts = urlsplit(address)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=MAX_SECONDS)


def post(connection: http.client.HTTPConnection, path: str, body: Json) -> http.client.HTTPResponse:
    content = json.dumps(body).encode()
    connection.request("POST", path, content, {"Content-Type": "application/json"})
    return connection.getresponse()


def in_threads(count: int, function: Callable[[int], None]) -> None:
    """Call `function(0)` … `function(count - 1)` at the same time, and wait for all of them."""
    # Daemon threads do not keep the program alive when it is told to end.
    threads = [Thread(target=function, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def ask_all(address: str, bodies: Sequence[Json]) -> list[PeerReply]:
    """Stream chat completions at the same moment, each on a connection of its own.

    Raises:
        PeerError: a request failed; the others have ended, too.
    """
    replies: dict[int, PeerReply] = {}
    failures: list[Exception] = []

    def ask(number: int) -> None:
        body = {**bodies[number], "stream": True, "stream_options": {"include_usage": True}}
        connection = connect(address)
        began = time.perf_counter()
        try:
            replies[number] = read_events(_post_chat(connection, body), began)
        except FAILURES as failure:
            failures.append(failure)
        finally:
            connection.close()

    in_threads(len(bodies), ask)
    if failures:
        raise PeerError(f"a request failed: {failures[0]}")
    return [replies[number] for number in range(len(bodies))]


def first_token(address: str, body: Json, count: int) -> dict[str, float]:
    """The `count` likeliest first tokens of a reply, each with its log probability."""
    connection = connect(address)
    options = {"max_tokens": 1, "logprobs": True, "top_logprobs": count}
    try:
        answer = json.loads(_post_chat(connection, {**body, **options}).read())
    finally:
        connection.close()
    likeliest = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return {entry["token"]: float(entry["logprob"]) for entry in likeliest}


def read_events(lines: Iterable[bytes], began: float) -> PeerReply:
    """Reads a stream of events to its end. `began` is a time of `time.perf_counter`.

    Raises:
        PeerError: an event is an error, or text or the number of tokens is missing.
    """
    text: list[str] = []
    tokens, first, last = 0, 0.0, 0.0
    for line in lines:
        if not line.startswith(DATA) or line.startswith(DATA + DONE):
            continue
        now = time.perf_counter() - began
        event = json.loads(line[len(DATA) :])
        if "error" in event:
            raise PeerError(str(event["error"]))
        # The event with the usage has no choices, and may come later.
        last = now if event.get("choices") else last
        choices = event.get("choices") or [{}]
        if added := str(choices[0].get("delta", {}).get("content") or ""):
            text.append(added)
            first = first or now
        tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    if not first or not tokens:
        raise PeerError("a reply came without text or without the count of its tokens")
    return PeerReply("".join(text), first, last, tokens)


def _post_chat(connection: http.client.HTTPConnection, body: Json) -> http.client.HTTPResponse:
    response = post(connection, CHAT_PATH, body)
    if response.status != http.client.OK:
        raise PeerError(response.read().decode(errors="replace")[:300])
    return response
