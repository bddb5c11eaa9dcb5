"""Requests to OpenAI-compatible servers, many at once, with the times at which text arrived.

Plain sockets and threads, no client library: the client shares the cores with the server that it
measures.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

from bench.peers.base import PeerError, PeerReply

Json = dict[str, Any]

MAX_SECONDS = 600.0
PATH = "/v1/chat/completions"
DATA = b"data: "
DONE = b"[DONE]"
FAILURES = (OSError, ValueError, KeyError, PeerError, http.client.HTTPException)


def ask_all(address: str, bodies: Sequence[Json]) -> list[PeerReply]:
    """Send all requests at the same moment, each on a connection of its own.

    Raises:
        PeerError: one of them failed; the others were waited for.
    """
    replies: dict[int, PeerReply] = {}
    failures: list[Exception] = []

    def one(number: int) -> None:
        try:
            replies[number] = ask(address, bodies[number])
        except FAILURES as failure:
            failures.append(failure)

    # As daemons they do not keep the program when it is told to end.
    threads = [
        threading.Thread(target=one, args=(number,), daemon=True) for number in range(len(bodies))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise PeerError(f"a request failed: {failures[0]}")
    return [replies[number] for number in range(len(bodies))]


def ask(address: str, body: Json) -> PeerReply:
    """One chat completion, streamed."""
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    connection = _connection(address)
    began = time.perf_counter()
    try:
        return read_events(_post(connection, streamed), began)
    finally:
        connection.close()


def first_token(address: str, body: Json, count: int) -> dict[str, float]:
    """The `count` likeliest first tokens of a reply, each with its log probability."""
    connection = _connection(address)
    once = {**body, "max_tokens": 1, "logprobs": True, "top_logprobs": count}
    try:
        answer = json.loads(_post(connection, once).read())
    finally:
        connection.close()
    likeliest = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return {entry["token"]: float(entry["logprob"]) for entry in likeliest}


def read_events(lines: Iterable[bytes], began: float) -> PeerReply:
    """Follow a stream of events to its end. `began` is on the clock of `time.perf_counter`.

    Raises:
        PeerError: an event is an error, or text or the count of the tokens is missing.
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
        # The event with the usage has no choices, and may follow at leisure.
        last = now if event.get("choices") else last
        if piece := _piece(event):
            text.append(piece)
            first = first or now
        tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    if not first or not tokens:
        raise PeerError("a reply came without text or without the count of its tokens")
    return PeerReply("".join(text), first, last, tokens)


def _piece(event: Json) -> str:
    choices = event.get("choices") or [{}]
    return str(choices[0].get("delta", {}).get("content") or "")


def _connection(address: str) -> http.client.HTTPConnection:
    parts = urlsplit(address)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=MAX_SECONDS)


def _post(connection: http.client.HTTPConnection, body: Json) -> http.client.HTTPResponse:
    content = json.dumps(body).encode()
    connection.request("POST", PATH, content, {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != http.client.OK:
        raise PeerError(response.read().decode(errors="replace")[:300])
    return response
