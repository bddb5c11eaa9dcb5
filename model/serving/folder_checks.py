"""Runs looks at folders on threads that are given up when they hang, so that one folder whose disk
does not answer holds up no other.

A thread that waits for a disk cannot be ended. It is left alone: its folder counts as unanswered
until it comes back, and its answer is taken then.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_STUCK = 8  # threads that wait for disks; beyond them new looks are put off
SHORTER = 5  # once one has hung, the others of the same disk get less time


class FolderChecks(Generic[T]):
    """Looks by key, each at most once at a time. For one caller at a time.

    Args:
        patience: seconds after which a look that has not ended is left alone.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._stuck: dict[str, _Worker[T]] = {}

    def run(self, looks: Mapping[str, Callable[[], T]], patience: float = 0.0) -> dict[str, T]:
        """What `looks`, which raise nothing, come to; without those that are unanswered so far.

        Args:
            patience: seconds, if more than usual.
        """
        patience = max(patience, self._patience)
        answers = self._late_answers()
        left = {key: look for key, look in looks.items() if key not in {*answers, *self._stuck}}
        while left and len(self._stuck) < MAX_STUCK:
            worker = _Worker(left)
            worker.start()
            hung = worker.collect(answers, patience)
            if hung is None:
                break
            self._stuck[hung] = worker
            patience = self._patience / SHORTER
            left = {key: look for key, look in left.items() if key not in {*answers, hung}}
        return {key: answer for key, answer in answers.items() if key in looks}

    def _late_answers(self) -> dict[str, T]:
        answers: dict[str, T] = {}
        for key, worker in list(self._stuck.items()):
            if worker.is_done:
                del self._stuck[key]
                worker.collect(answers, 0.0)
        return answers


class _Worker(threading.Thread, Generic[T]):
    """Takes some looks one after the other, until it is given up."""

    def __init__(self, looks: Mapping[str, Callable[[], T]]) -> None:
        super().__init__(name="adapter looks", daemon=True)
        self._looks = looks
        self._answers: queue.SimpleQueue[tuple[str, T] | None] = queue.SimpleQueue()
        self._current = ""
        self._given_up = False
        self._lock = threading.Lock()
        self.is_done = False

    def run(self) -> None:
        for key, look in self._looks.items():
            with self._lock:
                if self._given_up:
                    break
                self._current = key
            self._answers.put((key, look()))
        self.is_done = True
        self._answers.put(None)

    def collect(self, answers: dict[str, T], patience: float) -> str | None:
        """Take the answers as they come; the key of the look that hangs, if one does."""
        while True:
            try:
                answer = self._answers.get(timeout=patience)
            except queue.Empty:
                with self._lock:
                    self._given_up = True
                    return self._current
            if answer is None:
                return None
            answers[answer[0]] = answer[1]
