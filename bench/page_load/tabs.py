"""Many open tabs at one server: how many it draws and answers, and what they cost while idle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import httpx

from bench.machine import cpu_seconds, resident_bytes
from bench.peers.base import PeerError
from bench.questions import story
from bench.rounds import Say
from bench.visitor import Visitor, http_client

AT_ONCE = 25  # tabs that are being opened
SAMPLE = 20  # tabs that ask
TOKENS = 32  # of a sample's reply
WARM_UP = 50  # tabs before the memory is measured
SETTLE_SECONDS = 5.0
IDLE_SECONDS = 20.0
KB, PERCENT = 1_000, 100


def steps(most: int) -> list[int]:
    """How many tabs are open when they are looked at."""
    return [*(count for count in (500, 1_000, 2_000) if count < most), most]


async def open_tabs(address: str, counts: Sequence[int], say: Say) -> dict[str, float]:
    """The most tabs that were all drawn and of which a sample was answered; it ends where that
    fails."""
    tabs: list[Visitor] = []
    good, seconds = 0, 0.0
    async with http_client() as http:
        try:
            for count in counts:
                began = time.perf_counter()
                await open_more(address, http, tabs, count - len(tabs))
                seconds = (time.perf_counter() - began) / max(1, count - good)
                replied = await _ask_sample(tabs, count)
                await _check(address, http, tabs)
                good = count
                say(
                    f"{count} tabs: {seconds * 1000:.1f} ms to draw each; "
                    f"a sample has its replies after {replied:.1f} s"
                )
        except PeerError as error:
            say(f"{len(tabs)} tabs: {error}")
        finally:
            await close_all(tabs)
    return {"open_tabs": good, "open_seconds": round(seconds, 4)}


async def open_more(address: str, http: httpx.AsyncClient, tabs: list[Visitor], count: int) -> None:
    """Open so many more, each of another visitor, and wait until they are drawn."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def open_one() -> None:
        async with turn:
            tabs.append(await Visitor.open(address, http, {"max_tokens": TOKENS, "temperature": 0}))

    opened = await asyncio.gather(*(open_one() for _ in range(count)), return_exceptions=True)
    for error in filter(None, opened):
        raise error  # once none of them is under way any more


async def close_all(tabs: list[Visitor]) -> None:
    for begin in range(0, len(tabs), AT_ONCE):
        await asyncio.gather(*(tab.close() for tab in tabs[begin : begin + AT_ONCE]))
    tabs.clear()


async def _ask_sample(tabs: Sequence[Visitor], number: int) -> float:
    """Have some of them ask at once; seconds until all have their reply."""
    began = time.perf_counter()
    asked = tabs[:: max(1, len(tabs) // SAMPLE)][:SAMPLE]
    replies = await asyncio.gather(*(tab.ask(story(number + i)) for i, tab in enumerate(asked)))
    if not all(reply.text and reply.tokens for reply in replies):
        raise PeerError("a reply came without text")
    return time.perf_counter() - began


async def _check(address: str, http: httpx.AsyncClient, tabs: Sequence[Visitor]) -> None:
    lost = sum(not tab.connected for tab in tabs)
    if lost:
        raise PeerError(f"{lost} tabs have lost their connection")
    health = await http.get(f"{address}/health")
    if health.status_code != httpx.codes.OK:
        raise PeerError(f"/health says {health.status_code}")


async def idle_tabs(address: str, pid: int, count: int, say: Say) -> dict[str, float]:
    """Memory of an open tab and what a closed one leaves, and the processor's share of them all.

    The first wave of tabs warms the allocator up: what is left of closed tabs is what a second wave
    adds.
    """
    tabs: list[Visitor] = []
    async with http_client() as http:
        await _wave(address, http, tabs, WARM_UP)
        before = await _settled(pid)
        await open_more(address, http, tabs, count)
        opened = await _settled(pid)
        share = await _processor(pid)
        await close_all(tabs)
        closed = await _settled(pid)
        alone = await _processor(pid)
        await _wave(address, http, tabs, count)
        again = await _settled(pid)
    say(
        f"{count} tabs: {before // KB} kB before, {opened // KB} open, {closed // KB} closed, "
        f"{again // KB} after another wave; {share:.1%} of a core, {alone:.1%} without any"
    )
    return {
        # The first ones take the room of those that have warmed up.
        "idle_tab_bytes": round((opened - before) / max(1, count - WARM_UP) / KB, 1),
        "closed_tab_bytes": round((again - closed) / count / KB, 2),
        "idle_processor": round(share * PERCENT, 2),
    }


async def _wave(address: str, http: httpx.AsyncClient, tabs: list[Visitor], count: int) -> None:
    await open_more(address, http, tabs, count)
    await asyncio.sleep(1)
    await close_all(tabs)


async def _settled(pid: int) -> int:
    await asyncio.sleep(SETTLE_SECONDS)
    return resident_bytes(pid)


async def _processor(pid: int) -> float:
    """Of one core, while nobody does anything."""
    began, used = time.perf_counter(), cpu_seconds(pid)
    await asyncio.sleep(IDLE_SECONDS)
    return (cpu_seconds(pid) - used) / (time.perf_counter() - began)
