"""Runs what visitors ask for in worker threads, so that none of it waits on the event loop.

A visitor's actions run one after another, whichever tab they come from. Slow ones (imports,
exports, searches), Stop and redraws have orders of their own, so each visitor has one thread of
each kind at most: what takes long for one of them leaves the others alone. Between visitors nothing
is ordered.
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
END = object()  # of an iterator


class Kind(enum.Enum):
    """Which threads do a piece of work."""

    QUICK = enum.auto()
    SLOW = enum.auto()  # imports, exports, searches
    DRAW = enum.auto()  # what the tabs show
    SAVE = enum.auto()  # replies in the making


THREADS = {Kind.QUICK: 4, Kind.SLOW: 1, Kind.DRAW: 2, Kind.SAVE: 1}


class TooBusyError(LinlyError):
    """There is more to do than a visitor would wait for."""

    http_status = 429
    code = "too_busy"
    retry_after = 2


class Order(enum.Enum):
    """Of a visitor's actions those of one order run one after another."""

    ACTIONS = enum.auto()
    SLOW = enum.auto()
    STOP = enum.auto()  # not kept waiting by what was asked before
    DRAW = enum.auto()


KINDS = {Order.ACTIONS: Kind.QUICK, Order.SLOW: Kind.SLOW, Order.STOP: Kind.QUICK}


@dataclass
class _Turns:
    """Those of one visitor, in one order."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    count: int = 0


class Workers:
    """Thread pools, and each visitor's turns."""

    def __init__(self) -> None:
        self._pools = {
            kind: ThreadPoolExecutor(count, f"web-{kind.name.lower()}")
            for kind, count in THREADS.items()
        }
        self._turns: dict[tuple[str, Order], _Turns] = {}
        self._pending = 0

    async def call(
        self, kind: Kind, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run in a thread of `kind`, outside of any visitor's turn."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pools[kind], lambda: function(*args, **kwargs))

    async def act(self, owner: str, function: Callable[[], T], order: Order = Order.ACTIONS) -> T:
        """Run an action of a visitor's behind those of the same order that they asked for before.

        Raises:
            TooBusyError: too many wait already.
        """
        waiting = self._turns.get((owner, order), _Turns()).count
        if waiting > MAX_WAITING or self._pending > MAX_PENDING:
            raise TooBusyError("server_busy")
        self._pending += 1
        try:
            async with self._turn(owner, order):
                return await self.call(KINDS[order], function)
        finally:
            self._pending -= 1

    async def draw(self, owner: str, function: Callable[[], T], slow: bool = False) -> T:
        """Make what one of a visitor's tabs shows, or what a reply needs; one for each visitor."""
        async with self._turn(owner, Order.DRAW):
            return await self.call(Kind.SLOW if slow else Kind.DRAW, function)

    async def stream(self, owner: str, items: Iterator[T]) -> AsyncIterator[T]:
        """The items of an iterator that takes long, each made in a thread in the visitor's turn.
        Between them others have theirs: the client that takes the items may be slow."""
        while (item := await self._next(owner, items)) is not END:
            yield item  # type: ignore[misc]

    async def _next(self, owner: str, items: Iterator[T]) -> T | object:
        async with self._turn(owner, Order.SLOW):
            return await self.call(Kind.SLOW, next, items, END)

    def check(self) -> None:
        """That there are threads for quick work and for drawing.

        Raises:
            TimeoutError: none has become free for a while.
        """
        for kind in (Kind.QUICK, Kind.DRAW):
            self._pools[kind].submit(lambda: None).result(CHECK_SECONDS)

    def close(self) -> None:
        """Take no more work."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def _turn(self, owner: str, order: Order) -> AsyncIterator[None]:
        turns = self._turns.setdefault((owner, order), _Turns())
        turns.count += 1
        try:
            async with turns.lock:
                yield
        finally:
            turns.count -= 1
            if not turns.count:
                del self._turns[owner, order]


class LoopCaller:
    """Calls functions on the server's event loop, from whichever thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def bind(self) -> None:
        """The loop that runs now is the server's."""
        self._loop = asyncio.get_running_loop()

    def __call__(self, function: Callable[..., object], *args: Any) -> None:
        """At once on the loop itself, soon from a thread."""
        try:
            running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if self._loop is None or running is self._loop:
            function(*args)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)
