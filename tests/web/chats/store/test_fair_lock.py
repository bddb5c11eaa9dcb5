"""The lock before the one connection that writes."""

from __future__ import annotations

import threading
import time

import pytest

from web.chats.store.errors import StoreBusyError
from web.chats.store.fair_lock import FairLock

LONG = 30.0  # a bound, not a measure


def waiting(lock: FairLock, count: int) -> None:
    """Until so many threads wait."""
    deadline = time.monotonic() + LONG
    while len(lock._waiting) != count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_fair_lock_lets_threads_in_as_they_came() -> None:
    lock, order, threads = FairLock(), list[int](), list[threading.Thread]()

    def take(number: int) -> None:
        with lock.held(LONG):
            order.append(number)

    with lock.held(LONG):
        for number in range(5):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            waiting(lock, number + 1)
    with lock.held(LONG):  # behind all of them, though this thread asked at once
        assert order == [0, 1, 2, 3, 4]
    for thread in threads:
        thread.join()


def test_fair_lock_is_not_waited_for_without_end() -> None:
    lock = FairLock()
    with lock.held(LONG):
        with pytest.raises(StoreBusyError), lock.held(0.01):
            pass
        assert not lock._waiting
    with lock.held(0.01):
        pass


def test_fair_lock_is_free_again_after_an_error() -> None:
    lock = FairLock()
    with pytest.raises(LookupError), lock.held(LONG):
        raise LookupError
    with lock.held(0.01):
        pass


def test_fair_lock_is_held_by_one_thread_at_a_time() -> None:
    """Also where waits end in the moment in which the lock is handed over."""
    lock, inside, problems = FairLock(), list[int](), list[str]()

    def work(number: int) -> None:
        for _ in range(200):
            try:
                with lock.held(0.0005):
                    inside.append(number)
                    if inside != [number]:
                        problems.append("two at once")
                    time.sleep(0.0002)
                    inside.remove(number)
            except StoreBusyError:
                continue

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert not lock._waiting
    with lock.held(0.01):
        pass


def test_fair_lock_is_held_by_so_many_threads() -> None:
    lock = FairLock(2)
    with lock.held(LONG), lock.held(LONG), pytest.raises(StoreBusyError), lock.held(0.01):
        pass
    with lock.held(0.01), lock.held(0.01):
        pass
