"""Measures what the API costs: latency, cores, idle connections, and a crowd before a short queue.

`python bench/api.py [--rounds N] [--json]` first serves an engine that computes nothing
(`fake_engine_server.py`), so that only the program around it is measured; what HTTP adds is the
difference to the same streams read without it, in turns. Then it starts `app.py` with the embedded
default and a short queue, and 64 users ask at once, three times. `--help` lists the flags.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import httpx

# A script's import path begins with its own folder.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import common
from bench.peers.base import ChildProcess
from bench.peers.openai_client import COMPLETION_PATH, connect, in_threads, post
from bench.serving.fixtures import running_app
from bench.serving.workloads import unique_prompt

FIRST_TOKENS = 200  # requests for a median
STREAMS, RATE, SECONDS = 10, 30, 10  # 300 tokens a second
CONNECTIONS = 200
USERS, WAVES, TOKENS = 64, 3, 64
# The cache of ended chats is limited, or memory would grow with it, as intended.
QUEUE = ("--max_sequences", "8", "--max_waiting", "16", "--cache_memory", "100M")
SETTLE_SECONDS = 1.0


@common.script
def main() -> int:
    args = common.script_parser("api", __doc__, rounds=5).read(sys.argv[1:])
    common.log(f"measuring on {common.machine()} …")
    with tempfile.TemporaryDirectory(prefix="linly-bench-") as scratch:
        figures = measure_overhead(Path(scratch), args.rounds)
    return common.print_figures(figures | measure_crowds(), args.json, table)


class FakeEngineServer:
    """The server without a model, in a process of its own, and the requests that measure it."""

    def __init__(self, scratch: Path) -> None:
        command = [sys.executable, "-m", "bench.fake_engine_server"]
        self.child = ChildProcess(command, scratch / "fake_engine_server.log")
        self.address = self.child.read()
        self.child.wait_for(f"{self.address}/health", 60)

    def first_token_direct(self) -> float:
        """Milliseconds to a first token without HTTP."""
        return median(self._command(f"first {FIRST_TOKENS}"))

    def first_token(self) -> float:
        """Milliseconds from a request to its first token, all on one connection."""
        body = {"prompt": "x", "max_tokens": 1, "stream": True}
        times = []
        with closing(connect(self.address)) as connection:
            for _ in range(FIRST_TOKENS):
                began = time.perf_counter()
                response = post(connection, COMPLETION_PATH, body)
                response.readline()
                times.append(1000 * (time.perf_counter() - began))
                response.read()
        return median(times)

    def core_share_direct(self) -> float:
        """Percent of a core that the server uses while its streams are read without HTTP."""
        return self._core_share_of(lambda: self._command(f"direct {STREAMS} {RATE} {SECONDS}"))

    def core_share(self) -> float:
        """The same over HTTP."""
        body = {"prompt": "x", "seed": RATE, "max_tokens": RATE * SECONDS, "stream": True}
        events: list[int] = []

        def read(_: int) -> None:
            with closing(connect(self.address)) as connection:
                events.append(post(connection, COMPLETION_PATH, body).read().count(b"data: "))

        share = self._core_share_of(lambda: in_threads(STREAMS, read))
        if len(events) < STREAMS or min(events) < RATE * SECONDS:
            raise RuntimeError(f"the streams had {events} events")
        return share

    def _core_share_of(self, read_all: Callable[[], object]) -> float:
        before = common.cpu_seconds(self.child.pid)
        read_all()
        return 100 * (common.cpu_seconds(self.child.pid) - before) / SECONDS

    def idle_connections(self) -> float:
        """Megabytes of connections that have sent one request and stay open."""
        before = common.resident_bytes(self.child.pid)
        connections = [connect(self.address) for _ in range(CONNECTIONS)]
        for connection in connections:
            connection.request("GET", "/v1/models")
            connection.getresponse().read()
        time.sleep(SETTLE_SECONDS)
        used = common.resident_bytes(self.child.pid) - before
        for connection in connections:
            connection.close()
        return used / 1e6

    def _command(self, line: str) -> Any:
        self.child.write(line)
        return json.loads(self.child.read())


def measure_overhead(scratch: Path, rounds: int) -> dict[str, float]:
    """What the API adds to an engine that computes nothing; medians over the rounds."""
    server = FakeEngineServer(scratch)
    jobs = (
        server.first_token_direct,
        server.first_token,
        server.core_share_direct,
        server.core_share,
    )
    try:
        server.first_token(), server.first_token_direct()  # for warming up
        runs: list[list[float]] = []
        for number in range(rounds):
            runs.append([job() for job in jobs])
            latest = ", ".join(
                f"{job.__name__} {value:.2f}" for job, value in zip(jobs, runs[-1], strict=True)
            )
            common.log(f"round {number + 1}: {latest}")
        first_direct, first, share_direct, share = map(median, zip(*runs, strict=True))
        return {
            "first_token_ms": round(first, 2),
            "first_token_added_ms": round(first - first_direct, 2),
            "core_percent": round(share, 2),
            "core_percent_added": round(share - share_direct, 2),
            "idle_mb": round(server.idle_connections(), 1),
        }
    finally:
        server.child.stop()


def measure_crowds() -> dict[str, float]:
    """More users at once than fit into the queue, several times, at the embedded default."""
    answers: Counter[int] = Counter()
    without_retry, memory = 0, []
    with running_app(*QUEUE) as server:
        for wave in range(WAVES):
            responses = _ask_until_answered(server.address, wave)
            answers += Counter(status for status, _ in responses)
            without_retry += sum(status == 429 and not retry for status, retry in responses)
            memory.append(common.resident_bytes(server.pid) / 1e6)
            sequences = _sequences(server.address)
            common.log(
                f"wave {wave + 1}: {dict(answers)}, {memory[-1]:.0f} MB, {sequences} sequences"
            )
    return {
        "replies": answers[200],
        "busy": answers[429],
        "busy_without_retry_after": without_retry,
        "other_errors": answers.total() - answers[200] - answers[429],
        "sequences_left": sequences,
        "memory_first_mb": round(memory[0], 1),
        "memory_last_over_first": round(memory[-1] / memory[0], 3),
    }


def _ask_until_answered(address: str, wave: int) -> list[tuple[int, str | None]]:
    """All users ask at once, and again as `Retry-After` says; each status with that header."""
    responses: list[tuple[int, str | None]] = []

    def ask(number: int) -> None:
        prompt = unique_prompt(USERS * wave + number)
        body = {"prompt": prompt, "max_tokens": TOKENS, "stream": True, "ignore_eos": True}
        while True:
            with closing(connect(address)) as connection:
                response = post(connection, COMPLETION_PATH, body)
                response.read()
            retry = response.getheader("Retry-After")
            responses.append((response.status, retry))
            if response.status != 429:
                return
            time.sleep(float(retry or 1))

    in_threads(USERS, ask)
    time.sleep(SETTLE_SECONDS)
    return responses


def _sequences(address: str) -> int:
    """Running and waiting sequences, according to /metrics."""
    text = httpx.get(f"{address}/metrics").text
    return sum(int(float(n)) for n in re.findall(r"^linly_(?:running|waiting) (\S+)$", text, re.M))


LINES = {
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


def table(figures: common.Figures) -> str:
    """A line for each figure."""
    lines = [f"{text:56} {figures[key]:10g} {unit}" for key, (text, unit) in LINES.items()]
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    sys.exit(main())
