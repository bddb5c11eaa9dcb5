"""Runs checks of folders on worker threads, so that one folder whose disk does not respond delays
no other.

A thread that waits for a disk cannot be ended. It is abandoned: its check counts as unfinished
until the thread comes back, and a later run collects the result.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_STUCK = 8  # threads that wait for disks; with so many no new check is started
TIMEOUT_DIVISOR = 5  # once a check has hung, the others of the same run get less time


class FolderChecks(Generic[T]):
    """Runs checks by key, each key at most once at a time. For one caller at a time.

    Args:
        timeout: seconds after which a check that has not ended is abandoned.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._stuck: dict[str, _Worker[T]] = {}

    def run(self, checks: Mapping[str, Callable[[], T]], timeout: float = 0.0) -> dict[str, T]:
        """Returns the results of `checks`, which raise nothing; without the unfinished ones.

        Args:
            checks: functions by key.
            timeout: seconds for each check, if longer than usual.
        """
        timeout = max(timeout, self._timeout)
        results = self._late_results()
        pending = {key: check for key, check in checks.items() if key not in self._stuck}
        while pending := {key: check for key, check in pending.items() if key not in results}:
            if len(self._stuck) >= MAX_STUCK:
                break
            worker = _Worker(pending)
            worker.start()
            hung = worker.collect(results, timeout)
            if hung is None:
                break
            self._stuck[hung] = worker
            pending.pop(hung, None)
            timeout = self._timeout / TIMEOUT_DIVISOR
        return {key: result for key, result in results.items() if key in checks}

    def _late_results(self) -> dict[str, T]:
        results: dict[str, T] = {}
        for key, worker in list(self._stuck.items()):
            if worker.is_done:
                del self._stuck[key]
                worker.collect(results, 0.0)
        return results


class _Worker(threading.Thread, Generic[T]):
    """Runs checks one after the other, until it is abandoned."""

    def __init__(self, checks: Mapping[str, Callable[[], T]]) -> None:
        super().__init__(name="adapter checks", daemon=True)
        self._checks = checks
        self._results: queue.SimpleQueue[tuple[str, T] | None] = queue.SimpleQueue()
        self._current = ""
        self._abandoned = False
        self._lock = threading.Lock()
        self.is_done = False

    def run(self) -> None:
        for key, check in self._checks.items():
            with self._lock:
                if self._abandoned:
                    break
                self._current = key
            self._results.put((key, check()))
        self.is_done = True
        self._results.put(None)

    def collect(self, results: dict[str, T], timeout: float) -> str | None:
        """Adds the results to `results` as they come. Returns the key of a check that hangs."""
        while True:
            try:
                result = self._results.get(timeout=timeout)
            except queue.Empty:
                with self._lock:
                    self._abandoned = True
                    return self._current
            if result is None:
                return None
            results[result[0]] = result[1]
