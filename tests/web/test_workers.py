"""Workers: the order of actions, limits of waiting actions, and calls on the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Iterator
from typing import Any

import pytest

from web import workers
from web.workers import Kind, LoopCaller, Order, TooBusyError, Workers

SECONDS = 60.0  # far more than any of the tests takes


@pytest.fixture
def pool() -> Iterator[Workers]:
    made = Workers()
    yield made
    made.close()


def run(coroutine: Awaitable[None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(coroutine, SECONDS)

    asyncio.run(bounded())


class Blocker:
    """Work that blocks until `may_end` is set."""

    def __init__(self) -> None:
        self.began, self.may_end = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.began.set()
        assert self.may_end.wait(SECONDS)
        return "done"

    async def working(self) -> None:
        while not self.began.is_set():
            await asyncio.sleep(0.005)


def test_workers_run_a_visitor_s_actions_one_after_another(pool: Workers) -> None:
    seen: list[int] = []
    at_once, most = 0, 0

    def step(number: int) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        seen.append(number)
        threading.Event().wait(0.002)
        at_once -= 1

    async def act() -> None:
        await asyncio.gather(*(pool.act("anna", lambda n=n: step(n)) for n in range(20)))

    run(act())
    assert seen == list(range(20))
    assert most == 1


def test_workers_one_visitor_s_slow_actions_do_not_delay_others(pool: Workers) -> None:
    """In each order, also with actions of many tabs."""
    stuck = {order: Blocker() for order in Order}

    async def act() -> None:
        waiting = [
            asyncio.ensure_future(one)
            for one in (
                pool.act("anna", stuck[Order.ACTIONS]),
                pool.act("anna", stuck[Order.SLOW], Order.SLOW),
                pool.act("anna", stuck[Order.STOP], Order.STOP),
                pool.draw("anna", stuck[Order.DRAW]),
                *(pool.act("anna", lambda: "later") for _ in range(20)),
                *(pool.act("anna", lambda: "later", Order.STOP) for _ in range(20)),
                *(pool.draw("anna", lambda: "later") for _ in range(100)),
            )
        ]
        for one in stuck.values():
            await one.working()
        assert await pool.act("bert", lambda: 1) == 1
        assert await pool.act("bert", lambda: 2, Order.STOP) == 2
        assert await pool.draw("bert", lambda: 3) == 3
        assert await pool.call(Kind.SAVE, lambda: 4) == 4
        assert not any(one.done() for one in waiting)
        for one in stuck.values():
            one.may_end.set()
        await asyncio.gather(*waiting)

    run(act())


def test_workers_slow_actions_do_not_delay_quick_ones(pool: Workers) -> None:
    imports = [Blocker() for _ in range(5)]

    async def act() -> None:
        slow = [
            asyncio.ensure_future(pool.act(f"visitor {n}", one, Order.SLOW))
            for n, one in enumerate(imports)
        ]
        await imports[0].working()
        for n in range(5):  # their own, too
            assert await pool.act(f"visitor {n}", lambda n=n: n) == n
            assert await pool.draw(f"visitor {n}", lambda n=n: n) == n
        for one in imports:
            one.may_end.set()
        assert await asyncio.gather(*slow) == ["done"] * 5

    run(act())


def test_workers_stop_does_not_wait_for_actions(pool: Workers) -> None:
    before = Blocker()

    async def act() -> None:
        first = asyncio.ensure_future(pool.act("anna", before))
        await before.working()
        assert await pool.act("anna", lambda: "stopped", Order.STOP) == "stopped"
        assert not first.done()
        before.may_end.set()
        await first

    run(act())


def test_workers_raise_an_action_s_error_and_run_the_next_one(pool: Workers) -> None:
    def fails() -> None:
        raise ValueError("no")

    async def act() -> None:
        with pytest.raises(ValueError, match="no"):
            await pool.act("anna", fails)
        assert await pool.act("anna", lambda: 1) == 1
        assert pool.is_idle

    run(act())


def test_workers_limit_waiting_actions(pool: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a visitor, and of all visitors; refused actions leave no state."""
    first = Blocker()

    async def act() -> None:
        waiting = [asyncio.ensure_future(pool.act("anna", first))]
        waiting += [
            asyncio.ensure_future(pool.act("anna", lambda: "later"))
            for _ in range(workers.MAX_WAITING)
        ]
        await first.working()
        with pytest.raises(TooBusyError) as refused:
            await pool.act("anna", lambda: "too late")
        assert (refused.value.http_status, refused.value.retry_after) == (429, 2)
        assert await pool.act("bert", lambda: 1) == 1
        monkeypatch.setattr(workers, "MAX_PENDING", 10)
        for n in range(20):
            with pytest.raises(TooBusyError):
                await pool.act(f"visitor {n}", lambda: "too late")
        assert await pool.draw("anna", lambda: "drawn") == "drawn"  # tabs have bounds of their own
        first.may_end.set()
        assert await asyncio.gather(*waiting) == ["done", *["later"] * workers.MAX_WAITING]
        assert pool.is_idle

    run(act())


def test_workers_a_cancelled_action_leaves_the_queue(pool: Workers) -> None:
    first = Blocker()

    async def act() -> None:
        doing = asyncio.ensure_future(pool.act("anna", first))
        await first.working()
        waiting = asyncio.ensure_future(pool.act("anna", lambda: "never"))
        after = asyncio.ensure_future(pool.act("anna", lambda: "after"))
        await asyncio.sleep(0)
        waiting.cancel()
        first.may_end.set()
        assert await doing == "done"
        assert await after == "after"
        assert waiting.cancelled()
        assert pool.is_idle

    run(act())


def test_workers_run_other_actions_between_items_of_a_stream(pool: Workers) -> None:
    """A download that stalled blocked the visitor's other files."""
    made: list[int] = []

    def items() -> Iterator[int]:
        for n in range(3):
            made.append(threading.get_ident())
            yield n

    async def act() -> None:
        seen = []
        async for item in pool.stream("anna", items()):
            seen.append(item)
            assert await pool.act("anna", lambda: "meanwhile", Order.SLOW) == "meanwhile"
        assert seen == [0, 1, 2]
        assert threading.get_ident() not in made

    run(act())


def test_workers_refuse_actions_after_close(pool: Workers) -> None:
    async def act() -> None:
        pool.close()
        with pytest.raises(RuntimeError):
            await pool.act("anna", lambda: 1)

    run(act())


def test_loop_caller_from_threads_and_from_the_loop() -> None:
    caller, seen = LoopCaller(), []

    def note(value: Any) -> None:
        seen.append((value, threading.get_ident()))

    caller(note, "unbound")  # as in a program without a server

    async def act() -> None:
        caller.bind()
        caller(note, "loop")
        assert seen[-1][0] == "loop"  # at once
        await asyncio.to_thread(caller, note, "thread")
        while seen[-1][0] != "thread":
            await asyncio.sleep(0.005)

    run(act())
    assert {ident for _, ident in seen} == {threading.get_ident()}
    caller(note, "too late")  # its loop is closed: nothing happens, and nothing fails
    assert [value for value, _ in seen] == ["unbound", "loop", "thread"]


def test_loop_caller_wakes_a_waiting_task() -> None:
    caller = LoopCaller()

    async def act() -> None:
        caller.bind()
        event = asyncio.Event()
        waiting = asyncio.ensure_future(event.wait())
        await asyncio.to_thread(caller, event.set)
        await waiting

    run(act())
