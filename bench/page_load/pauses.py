"""How long the server's event loop pauses while a visitor starts expensive actions.

Measured inside, by a sampler of the loop, and outside, by how long /health takes to answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.common import Log
from bench.page_load.loop_delay import longest_delay, median_delay
from bench.page_load.tab_client import TabClient, http_client
from bench.peers.base import ChildProcess
from bench.serving.fixtures import running_app
from bench.serving.workloads import unique_prompt

WARM_UP_SECONDS, SETTLE_SECONDS, IDLE_SECONDS = 10.0, 1.0, 3.0
TEXT = "The keeper wrote into the log what the sea had brought: 海浪很高, and the light was seen. "
TEXT_CHARACTERS = 142  # then a file of 1,000 chats of 25 messages has nearly 5 MB
# Without a match all messages are read; letters beyond ASCII are compared by Python.
NOT_FOUND, NOT_FOUND_FOLDED = "no such lighthouse", "kein Leuchtturmwächter"
COMPARED = {"adapter": "", "preset": ""}
COMPARED_REPLIES, TOKENS = 4, 64
MS = 1_000

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


def measure_pauses(rounds: int, log: Log) -> dict[str, float]:
    """Milliseconds of the longest pause by action, inside and outside; medians of the rounds."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="linly-bench-") as folder:
        inside, outside = Path(folder) / "loop", Path(folder) / "health"
        program = ("-m", "bench.page_load.loop_delay", "app", str(inside))
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
                    found.setdefault(f"pause_{name}", []).append(pause)
                    found.setdefault(f"outside_{name}", []).append(wait)
    return {key: round(median(values), 1) for key, values in found.items()}


@contextmanager
def _probe(address: str, delays: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "bench.page_load.loop_delay", "probe", str(delays), address]
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
