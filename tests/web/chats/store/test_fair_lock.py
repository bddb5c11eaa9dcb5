"""Locks before the connections: order, bounds, and one slot for each owner."""

from __future__ import annotations

import threading
import time

import pytest

from tests.web.chats.chat_app import SECONDS, block_until
from web.chats.store.errors import StoreBusyError
from web.chats.store.fair_lock import FairLock, OwnerSlots


def test_fair_lock_admits_threads_in_order_of_arrival() -> None:
    lock, order, threads = FairLock(), list[int](), list[threading.Thread]()

    def take(number: int) -> None:
        with lock.hold(SECONDS):
            order.append(number)

    with lock.hold(SECONDS):
        for number in range(5):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            block_until(lambda number=number: lock.waiting_count == number + 1)  # type: ignore[misc]
    with lock.hold(SECONDS):  # after all of them, though this thread asked at once
        assert order == [0, 1, 2, 3, 4]
    for thread in threads:
        thread.join()


def test_fair_lock_bounds_the_wait() -> None:
    lock = FairLock()
    with lock.hold(SECONDS):
        with pytest.raises(StoreBusyError), lock.hold(0.01):
            pass
        assert lock.waiting_count == 0
    with lock.hold(0.01):
        pass


def test_fair_lock_is_released_after_an_error() -> None:
    lock = FairLock()
    with pytest.raises(LookupError), lock.hold(SECONDS):
        raise LookupError
    with lock.hold(0.01):
        pass


def test_fair_lock_is_held_by_one_thread_at_a_time() -> None:
    """Also where a wait ends at the moment when the lock is passed on."""
    lock, inside, errors = FairLock(), list[int](), list[str]()

    def work(number: int) -> None:
        for _ in range(200):
            try:
                with lock.hold(0.0005):
                    inside.append(number)
                    if inside != [number]:
                        errors.append("two at once")
                    time.sleep(0.0002)
                    inside.remove(number)
            except StoreBusyError:
                continue

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert lock.waiting_count == 0
    with lock.hold(0.01):
        pass


def test_fair_lock_has_count_slots() -> None:
    lock = FairLock(2)
    with lock.hold(SECONDS), lock.hold(SECONDS), pytest.raises(StoreBusyError), lock.hold(0.01):
        pass
    with lock.hold(0.01), lock.hold(0.01):
        pass


def test_owner_slots_are_waited_for() -> None:
    slots, order = OwnerSlots(1), list[str]()

    def take(owner: str) -> None:
        with slots.hold(owner, SECONDS):
            order.append(owner)

    with slots.hold("a", SECONDS):
        threads = [threading.Thread(target=take, args=(owner,)) for owner in "ab"]
        for thread in threads:
            thread.start()
        with pytest.raises(StoreBusyError), slots.hold("c", 0.02):
            pass
        assert order == []
    for thread in threads:
        thread.join()
    assert sorted(order) == ["a", "b"]
    with pytest.raises(LookupError), slots.hold("a", SECONDS):
        raise LookupError
    take("a")
