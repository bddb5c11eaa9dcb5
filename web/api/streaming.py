"""From what the manager streams to an HTTP response, for one choice or several.

A client that hangs up closes the generators, which ends its sequences within one token.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from model.errors import LinlyError
from model.serving.delta_queue import DeltaBatch, DeltaStream
from model.types import Delta, Stats
from web.api.openai_format import ALIVE, ResponseFormatter, failure

T = TypeVar("T")

# A proxy hangs up on whoever is silent for a minute, and a long prompt can take longer.
ALIVE_SECONDS = 15.0
HUNG_UP = 499  # nginx's status for a client that did not wait: nobody is there to read it
SSE = "text/event-stream"

Told = AsyncGenerator[tuple[int, DeltaBatch], None]  # which choice, and what it says


async def respond(
    choices: Sequence[DeltaStream], writer: ResponseFormatter, stream: bool, request: Request
) -> Response:
    """The response that `writer` writes of what the `choices` say.

    Raises:
        LinlyError: a choice was refused before anything was sent.
    """
    told = _together(choices)
    if not stream:
        collected = await _unless_disconnected(_collect(told, len(choices)), request)
        return JSONResponse(writer.whole(collected)) if collected else Response(status_code=HUNG_UP)
    # The first burst is waited for here, so that a refusal still has its HTTP status.
    first = await _unless_disconnected(anext(told), request)
    if first is None:
        await told.aclose()
        return Response(status_code=HUNG_UP)
    packets = _packets(first, told, writer, len(choices))
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # the latter is for nginx
    return StreamingResponse(packets, media_type=SSE, headers=headers)


async def _packets(
    first: tuple[int, DeltaBatch], rest: Told, writer: ResponseFormatter, choices: int
) -> AsyncIterator[bytes]:
    """Server-sent events, those of a burst together."""
    stats: list[Stats | None] = [None] * choices
    async with aclosing(rest):
        yield writer.opening(choices)
        try:
            async with aclosing(_with_signs_of_life(first, rest)) as told:
                async for index, burst in told:
                    yield writer.events(index, burst) if burst else ALIVE
                    stats[index] = (burst[-1].stats if burst else None) or stats[index]
        except LinlyError as error:  # of several choices, one was refused after another began
            yield failure(str(error))
            return
    yield writer.closing(stats)


async def _with_signs_of_life(first: tuple[int, DeltaBatch], rest: Told) -> Told:
    """What is told, and an empty burst whenever nothing was for a while before the first text."""
    yield first
    spoke = _says(first[1])
    while not spoke:
        coming = asyncio.ensure_future(anext(rest, None))
        try:
            while not (await asyncio.wait({coming}, timeout=ALIVE_SECONDS))[0]:
                yield 0, ()
        except BaseException:
            coming.cancel()
            await asyncio.wait({coming})  # or else `rest` could not be closed
            raise
        told = coming.result()
        if told is None:
            return
        yield told
        spoke = _says(told[1])
    async for told in rest:
        yield told


def _says(burst: DeltaBatch) -> bool:
    return any(delta.text or delta.finish_reason for delta in burst)


async def _together(choices: Sequence[DeltaStream]) -> Told:
    """What several streams say, as it comes; closing this closes all of them."""
    if len(choices) == 1:
        async with aclosing(choices[0]) as bursts:
            async for burst in bursts:
                yield 0, burst
        return
    async with AsyncExitStack() as stack:
        for bursts in choices:
            await stack.enter_async_context(aclosing(bursts))
        coming = {_next(bursts): index for index, bursts in enumerate(choices)}
        # Left in the reverse order: what is awaited has to end before its stream can be closed.
        stack.push_async_callback(_give_up, coming)
        while coming:
            ready, _ = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
            for one in sorted(ready, key=coming.__getitem__):
                index, told = coming.pop(one), one.result()
                if told is not None:
                    yield index, told
                    coming[_next(choices[index])] = index


def _next(bursts: DeltaStream) -> asyncio.Future[DeltaBatch | None]:
    return asyncio.ensure_future(anext(bursts, None))


async def _give_up(coming: dict[asyncio.Future[DeltaBatch | None], int]) -> None:
    for one in coming:
        one.cancel()
    if coming:
        await asyncio.wait(coming)
    coming.clear()


async def _collect(told: Told, choices: int) -> list[list[Delta]]:
    deltas: list[list[Delta]] = [[] for _ in range(choices)]
    async with aclosing(told):
        async for index, burst in told:
            deltas[index] += burst
    return deltas


async def _unless_disconnected(work: Awaitable[T], request: Request) -> T | None:
    """The result of `work`; None, with `work` cancelled, if the client hangs up before."""
    task = asyncio.ensure_future(work)
    hung_up = asyncio.ensure_future(_hang_up(request))
    try:
        await asyncio.wait({task, hung_up}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        task.cancel()
        hung_up.cancel()
        await asyncio.wait({task})  # cancelled or not, its streams are closed from here on


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
