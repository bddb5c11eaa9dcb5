"""Bursts: everything arrives, in order, in few of them, and nothing is held back for long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from model.serving.delta_queue import DeltaBatch, DeltaQueue
from model.types import Delta, FinishReason

LAST = Delta("!", FinishReason.STOP)
LONG = 3600.0  # nobody waits for it: only what need not wait comes


def run(work: Callable[[], Awaitable[list[DeltaBatch]]]) -> list[DeltaBatch]:
    async def bounded() -> list[DeltaBatch]:
        return await asyncio.wait_for(work(), 20)

    return asyncio.run(bounded())


def text(bursts: list[DeltaBatch]) -> str:
    return "".join(delta.text for burst in bursts for delta in burst)


async def until_the_end(outbox: DeltaQueue) -> list[DeltaBatch]:
    bursts = [await outbox.take()]
    while not bursts[-1][-1].finish_reason:
        bursts.append(await outbox.take())
    return bursts


@pytest.mark.parametrize("seconds", [0.0, 0.001])
def test_everything_arrives_in_order_from_another_thread(seconds: float) -> None:
    words = [f"{number} " for number in range(2000)]

    async def work() -> list[DeltaBatch]:
        outbox = DeltaQueue(seconds)

        def speak() -> None:
            for word in words:
                outbox.put(Delta(word))
            outbox.put(LAST)

        threading.Thread(target=speak).start()
        return await until_the_end(outbox)

    assert text(run(work)) == "".join(words) + "!"


def test_the_first_comes_at_once_and_so_does_the_end() -> None:
    async def work() -> list[DeltaBatch]:
        outbox = DeltaQueue(LONG)
        outbox.put(Delta("a"))
        first = await outbox.take()
        for letter in "bcd":
            outbox.put(Delta(letter))
        outbox.put(LAST)
        return [first, *await until_the_end(outbox)]

    assert [text([burst]) for burst in run(work)] == ["a", "bcd!"]


def test_a_pause_holds_nothing_back() -> None:
    """Text that came within the pace must be shown even if no other delta follows for long."""

    async def work() -> list[DeltaBatch]:
        outbox = DeltaQueue(0.01)
        outbox.put(Delta("a"))
        bursts = [await outbox.take()]
        outbox.put(Delta("b"))
        outbox.put(Delta("c"))
        while text(bursts) != "abc":
            bursts.append(await outbox.take())
        return bursts

    assert text(run(work)) == "abc"


def test_what_comes_within_the_pace_comes_together() -> None:
    async def work() -> list[DeltaBatch]:
        outbox = DeltaQueue(LONG)
        outbox.put(Delta("a"))
        await outbox.take()
        outbox.put(Delta("b"))
        waiting = asyncio.ensure_future(outbox.take())
        done, _ = await asyncio.wait({waiting}, timeout=0.05)
        assert not done
        outbox.put(LAST)
        return [await waiting]

    assert [len(burst) for burst in run(work)] == [2]


def test_a_loop_that_is_gone_is_told() -> None:
    async def make() -> DeltaQueue:
        return DeltaQueue(0.0)

    outbox = asyncio.run(make())
    with pytest.raises(RuntimeError):
        outbox.put(Delta("a"))
