"""What the API costs: to a first token, in cores, for idle connections, and when too many ask.

`python bench/api.py [--rounds N] [--json]` first serves an engine that costs nothing
(`bench/paced.py`), so that all that is measured is the program around it; what HTTP adds is held
against the same streams read without it, in turns. Then it starts `app.py` with the embedded
default and a short queue, and 64 users ask at once, three times. `--help` has the rest.
"""

from __future__ import annotations

import http.client
import json
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

# Started as a script, Python only looks beside it.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.ending import told
from bench.flags import Parser, positive
from bench.machine import cpu_seconds, machine, resident_bytes
from bench.peers.child import Child
from bench.peers.ours import Ours
from bench.questions import story
from bench.rounds import Say, to_stderr
from bench.stage import embedded_stage

ROUNDS = 5
FIRSTS = 200  # requests for a median
STREAMS, RATE, SECONDS = 10, 30, 10  # 300 tokens a second
CONNECTIONS = 200
USERS, WAVES, TOKENS = 64, 3, 64
# What is kept of ended chats is bounded, or memory would grow with it, as it is meant to.
QUEUE = ("--max_sequences", "8", "--max_waiting", "16", "--cache_memory", "100M")
PATH = "/v1/completions"
SETTLE_SECONDS = 1.0


def main() -> int:
    return told(_figures)


def _figures() -> str:
    given = _parser().given(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="linly-bench-") as scratch:
        to_stderr(f"measuring on {machine()} …")
        paced = _paced(Path(scratch), given["rounds"], to_stderr)
        figures = {**paced, **_waves(Path(scratch), to_stderr)}
    return json.dumps(figures) if given["json"] else table(figures)


def _parser() -> Parser:
    about = (__doc__ or "").split("\n\n")[0]
    parser = Parser(prog="bench/api.py", description=about, allow_abbrev=False)
    parser.add_argument("--rounds", type=positive, default=ROUNDS, metavar="N", help="default: 5")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


class Paced:
    """The server without a model, and what is done with it."""

    def __init__(self, scratch: Path) -> None:
        command = [sys.executable, "-m", "bench.paced"]
        self.child = Child(command, scratch / "paced.log")
        self.address = self.child.read()
        self.child.wait_for(f"{self.address}/health", 60)

    def order(self, line: str) -> Any:
        self.child.write(line)
        return json.loads(self.child.read())

    def first_direct(self) -> float:
        """Milliseconds, without HTTP."""
        return median(self.order(f"first {FIRSTS}"))

    def first(self) -> float:
        """Milliseconds from a request to its first token, on one connection."""
        connection = connect(self.address)
        times = []
        for _ in range(FIRSTS):
            began = time.perf_counter()
            response = post(connection, {"prompt": "x", "max_tokens": 1, "stream": True})
            response.readline()
            times.append(1000 * (time.perf_counter() - began))
            response.read()
        connection.close()
        return median(times)

    def share_direct(self) -> float:
        """Of a core, in percent, while its streams are read without HTTP."""
        before = cpu_seconds(self.child.pid)
        self.order(f"direct {STREAMS} {RATE} {SECONDS}")
        return 100 * (cpu_seconds(self.child.pid) - before) / SECONDS

    def share(self) -> float:
        """The same over HTTP."""
        body = {"prompt": "x", "seed": RATE, "max_tokens": RATE * SECONDS, "stream": True}
        before = cpu_seconds(self.child.pid)
        threads = [threading.Thread(target=self._read, args=(body,)) for _ in range(STREAMS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return 100 * (cpu_seconds(self.child.pid) - before) / SECONDS

    def _read(self, body: Mapping[str, Any]) -> None:
        connection = connect(self.address)
        events = post(connection, body).read().count(b"data: ")
        connection.close()
        if events < RATE * SECONDS:
            raise RuntimeError(f"a stream had {events} events")

    def idle(self) -> float:
        """Megabytes of that many connections which have asked once and stay."""
        before = resident_bytes(self.child.pid)
        connections = [connect(self.address) for _ in range(CONNECTIONS)]
        for connection in connections:
            connection.request("GET", "/v1/models")
            connection.getresponse().read()
        time.sleep(SETTLE_SECONDS)
        used = resident_bytes(self.child.pid) - before
        for connection in connections:
            connection.close()
        return used / 1e6


def _paced(scratch: Path, rounds: int, say: Say) -> dict[str, float]:
    paced = Paced(scratch)
    try:
        paced.first(), paced.first_direct()  # for warming up
        runs: dict[str, list[float]] = {}
        for number in range(rounds):
            for name in ("first_direct", "first", "share_direct", "share"):
                runs.setdefault(name, []).append(getattr(paced, name)())
            say(f"round {number + 1}: " + ", ".join(f"{n} {v[-1]:.2f}" for n, v in runs.items()))
        middle = {name: median(values) for name, values in runs.items()}
        return {
            "first_token_ms": round(middle["first"], 2),
            "first_token_added_ms": round(middle["first"] - middle["first_direct"], 2),
            "core_percent": round(middle["share"], 2),
            "core_percent_added": round(middle["share"] - middle["share_direct"], 2),
            "idle_mb": round(paced.idle(), 1),
        }
    finally:
        paced.child.stop()


def _waves(scratch: Path, say: Say) -> dict[str, float]:
    server = Ours(embedded_stage(scratch), QUEUE)
    try:
        say(f"starting {server.start()} …")
        child = server.child
        assert child is not None  # noqa: S101 (it has just been started)
        answers: Counter[int] = Counter()
        without_retry, memory = 0, []
        for wave in range(WAVES):
            with _users(server.address, wave) as seen:
                pass
            answers += Counter(status for status, _ in seen)
            without_retry += sum(status == 429 and not retry for status, retry in seen)
            memory.append(resident_bytes(child.pid) / 1e6)
            say(f"wave {wave + 1}: {dict(answers)}, {memory[-1]:.0f} MB, {_left(server.address)}")
        running, waiting = _left(server.address)
        return {
            "replies": answers[200],
            "busy": answers[429],
            "busy_without_retry_after": without_retry,
            "other_errors": sum(answers.values()) - answers[200] - answers[429],
            "sequences_left": running + waiting,
            "memory_first_mb": round(memory[0], 1),
            "memory_last_over_first": round(memory[-1] / memory[0], 3),
        }
    finally:
        server.stop()


@contextmanager
def _users(address: str, wave: int) -> Iterator[list[tuple[int, str | None]]]:
    """All of them ask at once, and again when they are told to; each status with `Retry-After`."""
    seen: list[tuple[int, str | None]] = []

    def ask(number: int) -> None:
        question = story(USERS * wave + number)
        body = {"prompt": question, "max_tokens": TOKENS, "stream": True, "ignore_eos": True}
        while True:
            connection = connect(address)
            response = post(connection, body)
            response.read()
            connection.close()
            retry = response.getheader("Retry-After")
            seen.append((response.status, retry))
            if response.status != 429:
                return
            time.sleep(float(retry or 1))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(USERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(SETTLE_SECONDS)
    yield seen


def _left(address: str) -> tuple[int, int]:
    """Sequences that run and wait, as /metrics tells it."""
    connection = connect(address)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = {name: float(value) for name, value in re.findall(r"^(\w+) ([\d.e+-]+)$", text, re.M)}
    return int(found["linly_running"]), int(found["linly_waiting"])


def connect(address: str) -> http.client.HTTPConnection:
    parts = urlsplit(address)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=600)


def post(
    connection: http.client.HTTPConnection, body: Mapping[str, Any]
) -> http.client.HTTPResponse:
    content = json.dumps(body).encode()
    connection.request("POST", PATH, content, {"Content-Type": "application/json"})
    return connection.getresponse()


WORDS = {
    "first_token_ms": ("a first token over HTTP, of a model that costs nothing", "ms"),
    "first_token_added_ms": ("of that, by the API", "ms"),
    "core_percent": (f"{STREAMS} streams, {STREAMS * RATE} tokens/s", "% of a core"),
    "core_percent_added": ("of that, by the API", "% of a core"),
    "idle_mb": (f"{CONNECTIONS} idle connections", "MB"),
    "replies": (f"{WAVES} times {USERS} users at once: replies", ""),
    "busy": ("told to come back", "times"),
    "busy_without_retry_after": ("of these without Retry-After", ""),
    "other_errors": ("other errors", ""),
    "sequences_left": ("sequences left behind", ""),
    "memory_first_mb": ("memory after the first time", "MB"),
    "memory_last_over_first": ("after the last time, over that", ""),
}


def table(figures: Mapping[str, float]) -> str:
    """A line a figure."""
    lines = [f"{words:56} {figures[key]:10g} {unit}" for key, (words, unit) in WORDS.items()]
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    sys.exit(main())
