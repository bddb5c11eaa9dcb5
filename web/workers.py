"""Runs visitors' actions in worker threads, so that they do not block the event loop.

A visitor's actions run one after another, also those of different tabs. Slow ones (imports,
exports, searches), Stop and redraws have queues of their own. So each visitor uses at most one
thread of each kind, and one visitor's long action does not delay others. Actions of different
visitors have no order.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from model.errors import LinlyError

T = TypeVar("T")
P = ParamSpec("P")
MAX_WAITING = 32  # actions of one visitor that wait for their turn
MAX_PENDING = 1_000  # actions of all visitors
CHECK_SECONDS = 30.0  # for a thread to become free
END = object()  # marks the end of an iterator


class Kind(enum.Enum):
    """The thread pool for a piece of work."""

    QUICK = enum.auto()
    SLOW = enum.auto()  # imports, exports, searches
    DRAW = enum.auto()  # the content of tabs
    SAVE = enum.auto()  # replies in the making


THREADS = {Kind.QUICK: 4, Kind.SLOW: 1, Kind.DRAW: 2, Kind.SAVE: 1}


class TooBusyError(LinlyError):
    """Too many actions are waiting."""

    http_status = 429
    code = "too_busy"
    retry_after = 2


class Order(enum.Enum):
    """A visitor's queues: actions in the same queue run one after another."""

    ACTIONS = enum.auto()
    SLOW = enum.auto()
    STOP = enum.auto()  # does not wait for earlier actions
    DRAW = enum.auto()


KINDS = {Order.ACTIONS: Kind.QUICK, Order.SLOW: Kind.SLOW, Order.STOP: Kind.QUICK}


@dataclass
class _Queue:
    """One visitor's queue: the lock that its actions wait for, and their number."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    count: int = 0


class Workers:
    """The thread pools, and each visitor's queues."""

    def __init__(self) -> None:
        self._pools = {
            kind: ThreadPoolExecutor(count, f"web-{kind.name.lower()}")
            for kind, count in THREADS.items()
        }
        self._queues: dict[tuple[str, Order], _Queue] = {}
        self._pending = 0

    async def call(
        self, kind: Kind, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Runs a function in a thread of `kind`, outside of any visitor's queue."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pools[kind], lambda: function(*args, **kwargs))

    async def act(self, owner: str, function: Callable[[], T], order: Order = Order.ACTIONS) -> T:
        """Runs a visitor's action after the earlier ones of the same order.

        Raises:
            TooBusyError: too many actions are waiting.
        """
        waiting = self._queues.get((owner, order), _Queue()).count
        if waiting > MAX_WAITING or self._pending > MAX_PENDING:
            raise TooBusyError("server_busy")
        self._pending += 1
        try:
            async with self._turn(owner, order):
                return await self.call(KINDS[order], function)
        finally:
            self._pending -= 1

    async def draw(self, owner: str, function: Callable[[], T], slow: bool = False) -> T:
        """Runs what prepares a tab's content or a reply's request; one at a time per visitor."""
        async with self._turn(owner, Order.DRAW):
            return await self.call(Kind.SLOW if slow else Kind.DRAW, function)

    async def stream(self, owner: str, items: Iterator[T]) -> AsyncIterator[T]:
        """Yields the items of a slow iterator, and makes each in a worker thread. The visitor's
        other slow actions can run between two items, as the client that reads them may be slow."""
        while (item := await self._next(owner, items)) is not END:
            yield item  # type: ignore[misc]

    async def _next(self, owner: str, items: Iterator[T]) -> T | object:
        async with self._turn(owner, Order.SLOW):
            return await self.call(Kind.SLOW, next, items, END)

    def check(self) -> None:
        """Checks that the threads for quick work and drawing are not all blocked.

        Raises:
            TimeoutError: no thread becomes free within CHECK_SECONDS.
        """
        for kind in (Kind.QUICK, Kind.DRAW):
            self._pools[kind].submit(lambda: None).result(CHECK_SECONDS)

    @property
    def is_idle(self) -> bool:
        """Whether no action of any visitor waits or runs."""
        return not self._queues and not self._pending

    def close(self) -> None:
        """Stops accepting work."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def _turn(self, owner: str, order: Order) -> AsyncIterator[None]:
        queue = self._queues.setdefault((owner, order), _Queue())
        queue.count += 1
        try:
            async with queue.lock:
                yield
        finally:
            queue.count -= 1
            if not queue.count:
                del self._queues[owner, order]


class LoopCaller:
    """Calls functions on the server's event loop, from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def bind(self) -> None:
        """Sets the running loop as the server's."""
        self._loop = asyncio.get_running_loop()

    def __call__(self, function: Callable[..., object], *args: Any) -> None:
        """Calls the function at once if on the loop, and soon if from another thread."""
        try:
            running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if self._loop is None or running is self._loop:
            function(*args)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)
