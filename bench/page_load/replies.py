"""Replies through the page: many visitors at once beside the API, and the bytes of a single one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from statistics import median

from bench.questions import story
from bench.rounds import Say
from bench.streaming import ask_all
from bench.visitor import ReplyTiming, Visitor, http_client

TOKENS, LONG_TOKENS = 128, 500
SAMPLING = {"temperature": 0, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.1}
SETTLE_SECONDS = 0.5  # after a new chat was asked for
LONG_QUESTION = "Write a very long story in many chapters, each of several paragraphs. {}"


async def crowd(address: str, visitors: int, rounds: int, say: Say) -> dict[str, float]:
    """So many visitors at once, in turns through the API and the page: medians over the rounds."""
    page: list[float] = []
    api: list[float] = []
    heard: list[ReplyTiming] = []
    async with http_client() as http:
        settings = {**SAMPLING, "max_tokens": TOKENS}
        tabs = [await Visitor.open(address, http, settings) for _ in range(visitors)]
        for number in range(rounds + 1):  # the first is for warming up
            first = number * 2 * visitors
            questions = [story(first + i) for i in range(2 * visitors)]
            api.append(await asyncio.to_thread(_through_api, address, questions[:visitors]))
            speed, heard = await _through_page(tabs, questions[visitors:])
            page.append(speed)
            say(f"{visitors} visitors: {api[-1]:.0f} tokens/s by the API, {speed:.0f} by the page")
        for tab in tabs:
            await tab.close()
    ratios = [ours / theirs for ours, theirs in zip(page[1:], api[1:], strict=True)]
    sizes = [size for one in heard for size in one.sizes] or [0]
    return {
        "api_tokens_per_second": round(median(api[1:]), 1),
        "page_tokens_per_second": round(median(page[1:]), 1),
        "page_over_api": round(median(ratios), 3),
        "crowd_updates_per_second": round(median(one.updates_per_second for one in heard), 2),
        "crowd_bytes_an_update": round(median(sizes), 1),
    }


def _through_api(address: str, questions: Sequence[str]) -> float:
    """Tokens a second of all together."""
    bodies = [
        {"messages": [{"role": "user", "content": q}], "max_tokens": TOKENS, **SAMPLING}
        for q in questions
    ]
    began = time.perf_counter()
    replies = ask_all(address, bodies)
    return sum(reply.tokens for reply in replies) / (time.perf_counter() - began)


async def _through_page(
    tabs: Sequence[Visitor], questions: Sequence[str]
) -> tuple[float, list[ReplyTiming]]:
    """The same, and what each visitor heard."""
    for tab in tabs:
        await tab.new_chat()
    await asyncio.sleep(SETTLE_SECONDS)
    began = time.perf_counter()
    asked = (tab.ask(question) for tab, question in zip(tabs, questions, strict=True))
    heard = await asyncio.gather(*asked)
    seconds = time.perf_counter() - began
    return sum(one.tokens for one in heard) / seconds, heard


async def reply_bytes(address: str, rounds: int, say: Say) -> dict[str, float]:
    """Bytes that a tab receives for a long reply, over the bytes of its text."""
    replies = []
    async with http_client() as http:
        settings = {**SAMPLING, "max_tokens": LONG_TOKENS}
        for number in range(rounds):
            tab = await Visitor.open(address, http, settings)
            reply = await tab.ask(LONG_QUESTION.format(story(number)))
            await tab.close()
            replies.append(reply)
            say(
                f"a reply of {reply.tokens} tokens: {reply.received} bytes for "
                f"{len(reply.text.encode())}, in {len(reply.sizes)} updates"
            )
    return {
        "reply_tokens": median(reply.tokens for reply in replies),
        "bytes_ratio": round(median(reply.bytes_ratio for reply in replies), 2),
    }
