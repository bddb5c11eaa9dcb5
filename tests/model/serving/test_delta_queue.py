"""DeltaQueue: all Deltas arrive in order, in few batches, and none waits long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from model.serving.delta_queue import DeltaBatch, DeltaQueue
from model.types import Delta, FinishReason

LAST = Delta("!", FinishReason.STOP)
LONG = 3600.0  # longer than a test: only batches that are due at once come


def run(work: Callable[[], Awaitable[list[DeltaBatch]]]) -> list[DeltaBatch]:
    async def bounded() -> list[DeltaBatch]:
        return await asyncio.wait_for(work(), 20)

    return asyncio.run(bounded())


def text(batches: list[DeltaBatch]) -> str:
    return "".join(delta.text for batch in batches for delta in batch)


async def read_to_end(queue: DeltaQueue) -> list[DeltaBatch]:
    batches = [await queue.get()]
    while not batches[-1][-1].finish_reason:
        batches.append(await queue.get())
    return batches


@pytest.mark.parametrize("seconds", [0.0, 0.001])
def test_all_deltas_arrive_in_order_from_another_thread(seconds: float) -> None:
    words = [f"{number} " for number in range(2000)]

    async def work() -> list[DeltaBatch]:
        queue = DeltaQueue(seconds)

        def produce() -> None:
            for word in words:
                queue.put(Delta(word))
            queue.put(LAST)

        threading.Thread(target=produce).start()
        return await read_to_end(queue)

    assert text(run(work)) == "".join(words) + "!"


def test_first_and_last_batch_come_at_once() -> None:
    async def work() -> list[DeltaBatch]:
        queue = DeltaQueue(LONG)
        queue.put(Delta("a"))
        first = await queue.get()
        for letter in "bcd":
            queue.put(Delta(letter))
        queue.put(LAST)
        return [first, *await read_to_end(queue)]

    assert [text([batch]) for batch in run(work)] == ["a", "bcd!"]


def test_delta_does_not_wait_for_the_next_one() -> None:
    """A Delta that came within the interval is delivered even if none follows for long."""

    async def work() -> list[DeltaBatch]:
        queue = DeltaQueue(0.01)
        queue.put(Delta("a"))
        batches = [await queue.get()]
        queue.put(Delta("b"))
        queue.put(Delta("c"))
        while text(batches) != "abc":
            batches.append(await queue.get())
        return batches

    assert text(run(work)) == "abc"


def test_deltas_within_the_interval_come_in_one_batch() -> None:
    async def work() -> list[DeltaBatch]:
        queue = DeltaQueue(LONG)
        queue.put(Delta("a"))
        await queue.get()
        queue.put(Delta("b"))
        waiting = asyncio.ensure_future(queue.get())
        done, _ = await asyncio.wait({waiting}, timeout=0.05)
        assert not done
        queue.put(LAST)
        return [await waiting]

    assert [len(batch) for batch in run(work)] == [2]


def test_put_raises_when_the_loop_is_closed() -> None:
    async def create() -> DeltaQueue:
        return DeltaQueue(0.0)

    queue = asyncio.run(create())
    with pytest.raises(RuntimeError):
        queue.put(Delta("a"))
