"""Turns the manager's streams, one for each choice, into an HTTP response.

When the client disconnects, the generators are closed, which ends its sequences within one token.
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
from web.api.openai_format import KEEP_ALIVE, ResponseFormatter, error_event

T = TypeVar("T")

# Proxies close a connection that is silent for a minute, and the prefill of a long prompt can take
# longer.
KEEP_ALIVE_SECONDS = 15.0
CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that disconnected, for logs and metrics
SSE = "text/event-stream"

ChoiceBatches = AsyncGenerator[tuple[int, DeltaBatch], None]  # the choice's index, and its batch


async def respond(
    choices: Sequence[DeltaStream], writer: ResponseFormatter, stream: bool, request: Request
) -> Response:
    """Returns the response that `writer` makes of the `choices`' streams.

    Raises:
        LinlyError: a choice was refused before anything was sent.
    """
    batches = _merge(choices)
    if not stream:
        replies = await _unless_disconnected(_collect(batches, len(choices)), request)
        if replies is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return JSONResponse(writer.response(replies))
    # Waits for the first batch here, so that a refusal still gets its HTTP status.
    first = await _unless_disconnected(anext(batches), request)
    if first is None:
        await batches.aclose()
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    packets = _packets(first, batches, writer, len(choices))
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # the latter is for nginx
    return StreamingResponse(packets, media_type=SSE, headers=headers)


async def _packets(
    first: tuple[int, DeltaBatch],
    remaining: ChoiceBatches,
    writer: ResponseFormatter,
    choices: int,
) -> AsyncIterator[bytes]:
    """Yields server-sent events, those of a batch in one packet."""
    stats: list[Stats | None] = [None] * choices
    async with aclosing(remaining):
        yield writer.opening(choices)
        try:
            async with aclosing(_with_keep_alives(first, remaining)) as batches:
                async for index, batch in batches:
                    yield writer.events(index, batch) if batch else KEEP_ALIVE
                    stats[index] = (batch[-1].stats if batch else None) or stats[index]
        except LinlyError as error:  # of several choices, one was refused after another began
            yield error_event(str(error))
            return
    yield writer.closing(stats)


async def _with_keep_alives(
    first: tuple[int, DeltaBatch], remaining: ChoiceBatches
) -> ChoiceBatches:
    """Yields the batches, and an empty one for each KEEP_ALIVE_SECONDS without a batch until the
    first text."""
    yield first
    has_begun = _has_content(first[1])
    while not has_begun:
        pending = asyncio.ensure_future(anext(remaining, None))
        try:
            while not (await asyncio.wait({pending}, timeout=KEEP_ALIVE_SECONDS))[0]:
                yield 0, ()
        except BaseException:
            pending.cancel()
            await asyncio.wait({pending})  # or else `remaining` could not be closed
            raise
        item = pending.result()
        if item is None:
            return
        yield item
        has_begun = _has_content(item[1])
    async for item in remaining:
        yield item


def _has_content(batch: DeltaBatch) -> bool:
    return any(delta.text or delta.finish_reason for delta in batch)


async def _merge(choices: Sequence[DeltaStream]) -> ChoiceBatches:
    """Yields the batches of several streams as they come; closing this closes all of them."""
    if len(choices) == 1:
        async with aclosing(choices[0]) as batches:
            async for batch in batches:
                yield 0, batch
        return
    async with AsyncExitStack() as stack:
        for batches in choices:
            await stack.enter_async_context(aclosing(batches))
        pending = {_next_batch(batches): index for index, batches in enumerate(choices)}
        # Runs before the streams are closed: a stream cannot be closed while it is awaited.
        stack.push_async_callback(_cancel_all, pending)
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for future in sorted(done, key=pending.__getitem__):
                index, next_batch = pending.pop(future), future.result()
                if next_batch is not None:
                    yield index, next_batch
                    pending[_next_batch(choices[index])] = index


def _next_batch(batches: DeltaStream) -> asyncio.Future[DeltaBatch | None]:
    return asyncio.ensure_future(anext(batches, None))


async def _cancel_all(pending: dict[asyncio.Future[DeltaBatch | None], int]) -> None:
    for future in pending:
        future.cancel()
    if pending:
        await asyncio.wait(pending)
    pending.clear()


async def _collect(batches: ChoiceBatches, choices: int) -> list[list[Delta]]:
    deltas: list[list[Delta]] = [[] for _ in range(choices)]
    async with aclosing(batches):
        async for index, batch in batches:
            deltas[index] += batch
    return deltas


async def _unless_disconnected(work: Awaitable[T], request: Request) -> T | None:
    """Returns the result of `work`, or cancels it and returns None when the client disconnects."""
    task = asyncio.ensure_future(work)
    disconnected = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait({task, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        task.cancel()
        disconnected.cancel()
        await asyncio.wait({task})  # afterwards its streams can be closed


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
