"""Rows answered many at once, and given back in their order."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from typing import Any

from terminal.jsonl import BatchRow

WINDOW = 4  # times as many rows are held as are answered at once: a long reply stops no others

Rows = Generator[BatchRow, None, None]
Result = Mapping[str, Any]


async def in_order(
    rows: Rows, answer: Callable[[BatchRow], Awaitable[Result]], width: int
) -> AsyncGenerator[Result, None]:
    """Each row's result, while at most WINDOW times `width` rows are held. `rows` is closed at the
    end, by the thread that reads."""
    feed = _Feed(rows, width)
    held: deque[asyncio.Future[Result]] = deque()
    reading: asyncio.Future[BatchRow | None] | None = asyncio.ensure_future(feed.next())
    try:
        while reading or held:
            wanted = reading if len(held) < WINDOW * width else None
            waited: list[asyncio.Future[Any]] = [f for f in (wanted, *list(held)[:1]) if f]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if wanted and wanted.done():
                row = wanted.result()
                reading = asyncio.ensure_future(feed.next()) if row else None
                if row:
                    held.append(asyncio.ensure_future(answer(row)))
            while held and held[0].done():
                yield held.popleft().result()
    finally:
        feed.close()
        left: list[asyncio.Future[Any]] = [f for f in (reading, *held) if f]
        for future in left:
            future.cancel()
        await asyncio.gather(*left, return_exceptions=True)


class _Feed:
    """Rows on their way to the event loop: read in a thread, because a pipe may keep it waiting.

    No more than `ahead` of them are read before they are taken.
    """

    def __init__(self, rows: Rows, ahead: int) -> None:
        self._rows = rows
        self._room = threading.Semaphore(ahead)
        self._read: asyncio.Queue[BatchRow | BaseException | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._closed = False
        # A daemon: nothing ends a thread that waits for a pipe.
        threading.Thread(target=self._run, name="reading", daemon=True).start()

    async def next(self) -> BatchRow | None:
        """The next row; None behind the last."""
        item = await self._read.get()
        self._room.release()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        self._closed = True
        self._room.release()

    def _run(self) -> None:
        # The loop may be closed: nobody wants them any more.
        with contextlib.closing(self._rows), contextlib.suppress(RuntimeError):
            try:
                for row in self._rows:
                    self._put(row)
                    if self._closed:
                        return
                self._put(None)
            except OSError as error:
                self._put(error)

    def _put(self, item: BatchRow | BaseException | None) -> None:
        self._room.acquire()
        self._loop.call_soon_threadsafe(self._read.put_nowait, item)
