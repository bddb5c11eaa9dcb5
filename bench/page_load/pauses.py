"""How long the server's event loop pauses while one visitor asks for much.

Told from inside, by a sampler of the loop, and from outside, by how long /health takes to answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.page_load.app_server import app_server
from bench.page_load.late import longest, usual
from bench.peers.child import Child
from bench.questions import story
from bench.rounds import Say
from bench.visitor import Visitor, http_client

PROBE = Path(__file__).with_name("probe.py")
WARM_UP_SECONDS, SETTLE_SECONDS, IDLE_SECONDS = 10.0, 1.0, 3.0
TEXT = "The keeper wrote into the log what the sea had brought: 海浪很高, and the light was seen. "
TEXT_CHARACTERS = 142  # with which a file of 1,000 chats of 25 messages has nearly 5 MB
# Not there, so that all messages are read; letters beyond ASCII are compared by Python.
NOT_FOUND, NOT_FOUND_FOLDED = "no such lighthouse", "kein Leuchtturmwächter"
RIVAL = {"adapter": "", "preset": ""}
RIVALS, TOKENS = 4, 64
MS = 1_000

Action = Callable[[], Awaitable[object]]
Spans = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Sizes:
    """How much is asked for: the messages of a file by chats and turns, those of the long chat, and
    how many visitors compare."""

    chats: int = 1_000
    turns: int = 25
    long: int = 1_000
    comparing: int = 5


def pauses(rounds: int, say: Say) -> dict[str, float]:
    """Milliseconds of the longest pause by action, inside and outside: medians of the rounds."""
    seen: dict[str, list[float]] = {}
    with app_server("--max_sequences", "20", sampled=True) as server:
        asyncio.run(_warm_up(server.address))
        for number in range(rounds):
            answers = server.scratch / f"answers-{number}"
            with _probe(server.address, answers):
                spans = asyncio.run(act_all(server.address, Sizes(), number))
            usually = usual(answers)
            for name, (since, until) in spans.items():
                inside = longest(server.lag, since, until) * MS
                outside = max(0.0, longest(answers, since, until) - usually) * MS
                say(f"{name}: {until - since:.2f} s; {inside:.1f} ms inside, {outside:.1f} outside")
                seen.setdefault(f"pause_{name}", []).append(inside)
                seen.setdefault(f"outside_{name}", []).append(outside)
    return {key: round(median(values), 1) for key, values in seen.items()}


@contextmanager
def _probe(address: str, answers: Path) -> Iterator[None]:
    command = [sys.executable, str(PROBE), address, str(answers)]
    child = Child(command, answers.with_suffix(".log"))
    try:
        yield
    finally:
        child.stop()


async def _warm_up(address: str) -> None:
    """Until compiled code has joined the model: loading that takes the interpreter's lock."""
    async with http_client() as http:
        visitor = await Visitor.open(address, http, {"max_tokens": TOKENS})
        await asyncio.sleep(WARM_UP_SECONDS)
        await visitor.ask(story(0))
        await visitor.close()


async def act_all(address: str, sizes: Sizes, number: int) -> Spans:
    """Do everything, one after another; when each began and ended."""
    spans: Spans = {}
    async with http_client() as http:
        visitor = await Visitor.open(address, http)
        rivals = [
            await Visitor.open(address, http, {"max_tokens": TOKENS})
            for _ in range(sizes.comparing)
        ]
        await visitor.import_chats(_file(1, sizes.long))
        await visitor.wait(lambda: len(visitor.order) == sizes.long)
        actions = _actions(visitor, visitor.log["chat"], rivals, sizes, number)
        await visitor.new_chat()
        for name, action in actions.items():
            await asyncio.sleep(SETTLE_SECONDS)
            since = time.monotonic()
            await action()
            spans[name] = since, time.monotonic()
        await asyncio.sleep(SETTLE_SECONDS)
        for tab in (visitor, *rivals):
            await tab.close()
    return spans


def _actions(
    visitor: Visitor, long: str, rivals: list[Visitor], sizes: Sizes, number: int
) -> dict[str, Action]:
    file = _file(sizes.chats, sizes.turns)

    async def import_all() -> None:
        await visitor.import_chats(file)
        await visitor.wait(lambda: bool(visitor.order))

    async def open_long() -> None:
        await visitor.act("open", {"id": long})
        await visitor.wait(lambda: visitor.log["chat"] == long)

    async def compare() -> None:
        asked = (one.compare(story(number), [RIVAL] * RIVALS) for one in rivals)
        await asyncio.gather(*asked)

    return {
        "idle": lambda: asyncio.sleep(IDLE_SECONDS),
        "import": import_all,
        "search": lambda: visitor.search(NOT_FOUND),
        "search_folded": lambda: visitor.search(NOT_FOUND_FOLDED),
        "export": lambda: visitor.export("all"),
        "open": open_long,
        "compare": compare,
    }


def _file(chats: int, turns: int) -> bytes:
    """A file of chats with so many messages each."""
    text = (TEXT * 2)[:TEXT_CHARACTERS]
    roles = ("user", "assistant")
    messages = [{"role": roles[turn % 2], "content": text} for turn in range(turns)]
    return json.dumps([{"messages": messages}] * chats, ensure_ascii=False).encode()
