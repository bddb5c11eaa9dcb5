"""Many tabs at one server: how many it serves, what idle ones cost, and what replies cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from statistics import median

import httpx

from bench.common import PeerError, cpu_seconds, log, resident_bytes
from bench.page_load.tab_client import PageReply, TabClient, http_client
from bench.peers.openai_client import ask_all
from bench.serving.workloads import unique_prompt

AT_ONCE = 25  # tabs that are being opened
SAMPLE = 20  # tabs that ask a question
WARM_UP = 50  # tabs before the memory is measured
SETTLE_SECONDS = 5.0
IDLE_SECONDS = 20.0
KB, PERCENT = 1_000, 100
SHORT_TOKENS, TOKENS, LONG_TOKENS = 32, 128, 500
SAMPLING = {"temperature": 0, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.1}
NEW_CHAT_SECONDS = 0.5  # until the server has nothing to do for a new chat
LONG_QUESTION = "Write a very long story in many chapters, each of several paragraphs. {}"


def tab_counts(limit: int) -> list[int]:
    """The numbers of open tabs at which the server is tested."""
    return [*(count for count in (500, 1_000, 2_000) if count < limit), limit]


class OpenTabs:
    """Tabs of different visitors at one server."""

    def __init__(self, address: str, http: httpx.AsyncClient) -> None:
        self._address = address
        self._http = http
        self.tabs: list[TabClient] = []

    async def open(self, count: int) -> None:
        """Open so many more, and wait until they are drawn."""
        turn = asyncio.Semaphore(AT_ONCE)
        settings = {"max_tokens": SHORT_TOKENS, "temperature": 0}

        async def open_one() -> None:
            async with turn:
                self.tabs.append(await TabClient.open(self._address, self._http, settings))

        opened = await asyncio.gather(*(open_one() for _ in range(count)), return_exceptions=True)
        for error in filter(None, opened):
            raise error  # once none of them is being opened any more

    async def close(self) -> None:
        for begin in range(0, len(self.tabs), AT_ONCE):
            await asyncio.gather(*(tab.close() for tab in self.tabs[begin : begin + AT_ONCE]))
        self.tabs.clear()

    async def ask_sample(self, first_prompt: int) -> float:
        """Have some of the tabs ask at once; returns the seconds until all have their reply."""
        began = time.perf_counter()
        sample = self.tabs[:: max(1, len(self.tabs) // SAMPLE)][:SAMPLE]
        replies = await asyncio.gather(
            *(tab.ask(unique_prompt(first_prompt + i)) for i, tab in enumerate(sample))
        )
        if not all(reply.text and reply.tokens for reply in replies):
            raise PeerError("a reply came without text")
        return time.perf_counter() - began

    async def check(self) -> None:
        """Raises PeerError if a tab has lost its connection or the server is unhealthy."""
        lost = sum(not tab.connected for tab in self.tabs)
        if lost:
            raise PeerError(f"{lost} tabs have lost their connection")
        health = await self._http.get(f"{self._address}/health")
        if health.status_code != httpx.codes.OK:
            raise PeerError(f"/health says {health.status_code}")


@asynccontextmanager
async def open_tabs(address: str) -> AsyncIterator[OpenTabs]:
    """No tab yet; those that are opened are closed at the end."""
    async with http_client() as http:
        tabs = OpenTabs(address, http)
        try:
            yield tabs
        finally:
            await tabs.close()


async def measure_open_tabs(address: str, counts: Sequence[int]) -> dict[str, float]:
    """The largest number of tabs that were all drawn and of which a sample got its replies."""
    good, seconds = 0, 0.0
    async with open_tabs(address) as tabs:
        try:
            for count in counts:
                began = time.perf_counter()
                await tabs.open(count - len(tabs.tabs))
                seconds = (time.perf_counter() - began) / max(1, count - good)
                replied = await tabs.ask_sample(count)
                await tabs.check()
                good = count
                log(
                    f"{count} tabs: {seconds * 1000:.1f} ms to draw each; "
                    f"a sample has its replies after {replied:.1f} s"
                )
        except PeerError as error:
            log(f"{len(tabs.tabs)} tabs: {error}")
    return {"open_tabs": good, "open_seconds": round(seconds, 4)}


async def measure_idle_tabs(address: str, pid: int, count: int) -> dict[str, float]:
    """Memory of an open tab, memory that a closed one leaves, and the CPU share of all idle tabs.

    The first tabs warm the allocator up: what closed tabs leave is what a second wave of them adds.
    """
    async with open_tabs(address) as tabs:
        await _wave(tabs, WARM_UP)
        before = await _settled_memory(pid)
        await tabs.open(count)
        opened = await _settled_memory(pid)
        share = await _idle_core_share(pid)
        await tabs.close()
        closed = await _settled_memory(pid)
        share_without = await _idle_core_share(pid)
        await _wave(tabs, count)
        again = await _settled_memory(pid)
    log(
        f"{count} tabs: {before // KB} kB before, {opened // KB} open, {closed // KB} closed, "
        f"{again // KB} after another wave; {share:.1%} of a core, {share_without:.1%} without any"
    )
    return {
        # The first ones take the memory of those that warmed up.
        "idle_tab_bytes": round((opened - before) / max(1, count - WARM_UP) / KB, 1),
        "closed_tab_bytes": round((again - closed) / count / KB, 2),
        "idle_processor": round(share * PERCENT, 2),
    }


async def _wave(tabs: OpenTabs, count: int) -> None:
    await tabs.open(count)
    await asyncio.sleep(1)
    await tabs.close()


async def _settled_memory(pid: int) -> int:
    await asyncio.sleep(SETTLE_SECONDS)
    return resident_bytes(pid)


async def _idle_core_share(pid: int) -> float:
    began, used = time.perf_counter(), cpu_seconds(pid)
    await asyncio.sleep(IDLE_SECONDS)
    return (cpu_seconds(pid) - used) / (time.perf_counter() - began)


async def measure_crowd(address: str, visitors: int, rounds: int) -> dict[str, float]:
    """All visitors ask at once, in turns through the API and the page; medians of the rounds."""
    runs = []
    timings: list[PageReply] = []
    settings = {**SAMPLING, "max_tokens": TOKENS}
    async with http_client() as http:
        tabs = [await TabClient.open(address, http, settings) for _ in range(visitors)]
        for number in range(rounds + 1):  # the first one warms up
            first = number * 2 * visitors
            prompts = [unique_prompt(first + i) for i in range(2 * visitors)]
            api = await asyncio.to_thread(_api_speed, address, prompts[:visitors])
            page, timings = await _page_speed(tabs, prompts[visitors:])
            runs.append((api, page, page / api))
            log(f"{visitors} visitors: {api:.0f} tokens/s by the API, {page:.0f} by the page")
        for tab in tabs:
            await tab.close()
    api_speed, page_speed, ratio = map(median, zip(*runs[1:], strict=True))
    sizes = [size for timing in timings for size in timing.sizes] or [0]
    return {
        "api_tokens_per_second": round(api_speed, 1),
        "page_tokens_per_second": round(page_speed, 1),
        "page_over_api": round(ratio, 3),
        "crowd_updates_per_second": round(median(t.updates_per_second for t in timings), 2),
        "crowd_bytes_an_update": round(median(sizes), 1),
    }


def _api_speed(address: str, prompts: Sequence[str]) -> float:
    """Tokens a second of all requests together."""
    bodies = [
        {"messages": [{"role": "user", "content": prompt}], "max_tokens": TOKENS, **SAMPLING}
        for prompt in prompts
    ]
    began = time.perf_counter()
    replies = ask_all(address, bodies)
    return sum(reply.tokens for reply in replies) / (time.perf_counter() - began)


async def _page_speed(
    tabs: Sequence[TabClient], prompts: Sequence[str]
) -> tuple[float, list[PageReply]]:
    """The same through the page, and each visitor's timing."""
    for tab in tabs:
        await tab.new_chat()
    await asyncio.sleep(NEW_CHAT_SECONDS)
    began = time.perf_counter()
    requests = (tab.ask(prompt) for tab, prompt in zip(tabs, prompts, strict=True))
    timings = await asyncio.gather(*requests)
    return sum(timing.tokens for timing in timings) / (time.perf_counter() - began), timings


async def measure_reply_bytes(address: str, rounds: int) -> dict[str, float]:
    """Bytes that a tab receives for a long reply, over the bytes of its text."""
    replies = []
    settings = {**SAMPLING, "max_tokens": LONG_TOKENS}
    async with http_client() as http:
        for number in range(rounds):
            tab = await TabClient.open(address, http, settings)
            reply = await tab.ask(LONG_QUESTION.format(unique_prompt(number)))
            await tab.close()
            replies.append(reply)
            log(
                f"a reply of {reply.tokens} tokens: {reply.received} bytes for "
                f"{len(reply.text.encode())}, in {len(reply.sizes)} updates"
            )
    return {
        "reply_tokens": median(reply.tokens for reply in replies),
        "bytes_ratio": round(median(reply.bytes_ratio for reply in replies), 2),
    }
