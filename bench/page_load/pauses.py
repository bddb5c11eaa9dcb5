"""How long the server's event loop pauses while a visitor starts expensive actions.

Two processes record delays in files, and this module runs them:

- `python -m bench.page_load.pauses app FILE [flags of app.py]` serves the app and has its event
  loop call a sampler every few milliseconds; a call that comes late tells how long the loop did
  something else.
- `python -m bench.page_load.pauses probe FILE ADDRESS` asks the server for /health repeatedly and
  records how long each answer took, until it is stopped. No other work delays this process.

Times are those of `time.monotonic`, the same clock for all processes of a Linux machine.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

from bench.common import log
from bench.page_load.tab_client import TabClient, http_client
from bench.peers.base import ChildProcess
from bench.peers.openai_client import connect
from bench.serving.fixtures import running_app
from bench.serving.workloads import unique_prompt

SAMPLE_SECONDS = 0.002  # between two calls of the sampler
MIN_DELAY = 0.002  # seconds; shorter ones are not recorded
PROBE_SECONDS = 0.005  # from one request to the next
WARM_UP_SECONDS, SETTLE_SECONDS, IDLE_SECONDS = 10.0, 1.0, 3.0
TEXT = "The keeper wrote into the log what the sea had brought: 海浪很高, and the light was seen. "
TEXT_CHARACTERS = 142  # then a file of 1,000 chats of 25 messages has nearly 5 MB
# Without a match all messages are read; letters beyond ASCII are compared by Python.
NOT_FOUND, NOT_FOUND_FOLDED = "no such lighthouse", "kein Leuchtturmwächter"
COMPARED = {"adapter": "", "preset": ""}
COMPARED_REPLIES, TOKENS = 4, 64
MS = 1_000

Record = Callable[[float], object]
Action = Callable[[], Awaitable[object]]
Spans = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Sizes:
    """How much the actions do: the chats and turns of a file, the messages of the long chat, and
    the visitors who compare."""

    chats: int = 1_000
    turns: int = 25
    long: int = 1_000
    comparing: int = 5


def measure_pauses(rounds: int) -> dict[str, float]:
    """Milliseconds of the longest pause by action, inside and outside; medians of the rounds."""
    samples: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="linly-bench-") as folder:
        inside, outside = Path(folder) / "loop", Path(folder) / "health"
        program = ("-m", "bench.page_load.pauses", "app", str(inside))
        with running_app("--max_sequences", "20", program=program) as server:
            asyncio.run(_warm_up(server.address))
            for number in range(rounds):
                with _probe(server.address, outside):
                    spans = asyncio.run(run_actions(server.address, Sizes(), number))
                usual = median_delay(outside)
                for name, (since, until) in spans.items():
                    pause = longest_delay(inside, since, until) * MS
                    wait = max(0.0, longest_delay(outside, since, until) - usual) * MS
                    seconds = f"{name}: {until - since:.2f} s"
                    log(f"{seconds}; {pause:.1f} ms inside, {wait:.1f} outside")
                    samples.setdefault(f"pause_{name}", []).append(pause)
                    samples.setdefault(f"outside_{name}", []).append(wait)
    return {key: round(median(values), 1) for key, values in samples.items()}


@contextmanager
def _probe(address: str, delays: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "bench.page_load.pauses", "probe", str(delays), address]
    child = ChildProcess(command, delays.with_suffix(".log"))
    try:
        yield
    finally:
        child.stop()


async def _warm_up(address: str) -> None:
    """Wait for the compiled kernels: loading them holds the interpreter's lock."""
    async with http_client() as http:
        tab = await TabClient.open(address, http, {"max_tokens": TOKENS})
        await asyncio.sleep(WARM_UP_SECONDS)
        await tab.ask(unique_prompt(0))
        await tab.close()


async def run_actions(address: str, sizes: Sizes, number: int) -> Spans:
    """Run all actions one after another; returns when each began and ended."""
    spans: Spans = {}
    async with http_client() as http:
        tab = await TabClient.open(address, http)
        comparing = [
            await TabClient.open(address, http, {"max_tokens": TOKENS})
            for _ in range(sizes.comparing)
        ]
        await tab.import_chats(_chats_file(1, sizes.long))
        await tab.wait(lambda: len(tab.order) == sizes.long)
        actions = _actions(tab, comparing, sizes, number)
        await tab.new_chat()
        for name, action in actions.items():
            await asyncio.sleep(SETTLE_SECONDS)
            since = time.monotonic()
            await action()
            spans[name] = since, time.monotonic()
        await asyncio.sleep(SETTLE_SECONDS)
        for opened in (tab, *comparing):
            await opened.close()
    return spans


def _actions(
    tab: TabClient, comparing: list[TabClient], sizes: Sizes, number: int
) -> dict[str, Action]:
    """The actions by name; the tab shows the long chat."""
    file, long = _chats_file(sizes.chats, sizes.turns), tab.log["chat"]

    async def import_chats() -> None:
        await tab.import_chats(file)
        await tab.wait(lambda: bool(tab.order))

    async def open_long() -> None:
        await tab.act("open", {"id": long})
        await tab.wait(lambda: tab.log["chat"] == long)

    async def compare() -> None:
        prompt, compared = unique_prompt(number), [COMPARED] * COMPARED_REPLIES
        await asyncio.gather(*(other.compare(prompt, compared) for other in comparing))

    return {
        "idle": lambda: asyncio.sleep(IDLE_SECONDS),
        "import": import_chats,
        "search": lambda: tab.search(NOT_FOUND),
        "search_folded": lambda: tab.search(NOT_FOUND_FOLDED),
        "export": lambda: tab.export("all"),
        "open": open_long,
        "compare": compare,
    }


def _chats_file(chats: int, turns: int) -> bytes:
    """A file of chats with so many messages each."""
    text = (TEXT * 2)[:TEXT_CHARACTERS]
    roles = ("user", "assistant")
    messages = [{"role": roles[turn % 2], "content": text} for turn in range(turns)]
    return json.dumps([{"messages": messages}] * chats, ensure_ascii=False).encode()


@contextmanager
def delay_file(path: Path) -> Iterator[Record]:
    """A function that records a delay of so many seconds, ending now, as a line of a new file."""
    with path.open("w", encoding="ascii", buffering=1) as file:
        yield lambda seconds: file.write(json.dumps([time.monotonic(), seconds]) + "\n")


def longest_delay(path: Path, since: float, until: float) -> float:
    """The longest delay in seconds that overlaps this time; 0.0 without any."""
    return max(
        (delay for end, delay in _delays(path) if end >= since and end - delay <= until),
        default=0.0,
    )


def median_delay(path: Path) -> float:
    return median([delay for _, delay in _delays(path)] or [0.0])


def _delays(path: Path) -> Iterator[tuple[float, float]]:
    for line in path.read_text(encoding="ascii").splitlines(keepends=True):
        if line.endswith("\n"):  # otherwise it is being written
            end, delay = json.loads(line)
            yield end, delay


def sample(loop: asyncio.AbstractEventLoop, record: Record) -> None:
    """Record the delays of `loop` from now on."""
    due = time.monotonic() + SAMPLE_SECONDS

    def record_delay() -> None:
        delay = time.monotonic() - due
        if delay > MIN_DELAY:
            record(delay)
        sample(loop, record)

    loop.call_later(SAMPLE_SECONDS, record_delay)


def probe(address: str, record: Record) -> NoReturn:
    """Ask for /health over one connection, until this process is stopped."""
    with closing(connect(address)) as connection:
        while True:
            began = time.monotonic()
            connection.request("GET", "/health")
            connection.getresponse().read()
            seconds = time.monotonic() - began
            record(seconds)
            time.sleep(max(0.0, PROBE_SECONDS - seconds))


def _serve_app(record: Record, flags: list[str]) -> int:
    import uvicorn

    import app

    startup = uvicorn.Server.startup

    async def sampled_startup(server: uvicorn.Server, *args: Any, **kwargs: Any) -> None:
        sample(asyncio.get_running_loop(), record)
        await startup(server, *args, **kwargs)

    uvicorn.Server.startup = sampled_startup  # type: ignore[method-assign, assignment]
    return app.main(flags)


def main(kind: str, path: str, *args: str) -> int:
    with delay_file(Path(path)) as record:
        if kind == "app":
            return _serve_app(record, list(args))
        probe(args[0], record)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
