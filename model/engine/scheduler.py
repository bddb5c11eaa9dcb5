"""Decides which sequences run next: first come, first served, a bounded number at a time.

A prefill-only sequence runs alone, while there is no reply to work on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from model.engine.sequence import Sequence


def _always(_: Sequence) -> bool:
    return True


class Scheduler:
    """The queues and the running sequences. Only the engine's thread uses it.

    `running` is in the order of arrival, and all of it arrived before `waiting`. `prefill_only` is
    the queue of prefill-only sequences: no reply waits for them, so they are not counted.
    """

    def __init__(self, max_running: int) -> None:
        self._max_running = max_running
        self.waiting: deque[Sequence] = deque()
        self.prefill_only: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._prefill_turns: deque[Sequence] = deque()  # running ones, in the order of their turns
        self._full = False  # after a preemption nothing is admitted until a sequence ends
        self._reason: str | None = None

    def __bool__(self) -> bool:
        return bool(self.waiting or self.running or self.prefill_only)

    @property
    def running_replies(self) -> int:
        """The number of running sequences that emit text."""
        return sum(not sequence.prefill_only for sequence in self.running)

    @property
    def all_sequences(self) -> list[Sequence]:
        return [*self.waiting, *self.prefill_only, *self.running]

    @property
    def waiting_reason(self) -> str | None:
        """What the first in the queue waits for, "slots" or "memory"; None for an empty queue."""
        return self._reason if self.waiting else None

    def add(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            (self.prefill_only if sequence.prefill_only else self.waiting).append(sequence)

    def preempt_prefill_only(self) -> Sequence | None:
        """Move a running prefill-only sequence back to the front of its queue if a reply waits.

        Returns it, to be started again later; None if there was no need.
        """
        sequence = next((s for s in self.running if s.prefill_only), None)
        if sequence is None or not self.waiting:
            return None
        self.running = []
        self._prefill_turns.clear()
        self.prefill_only.appendleft(sequence)
        return sequence

    def admit(self, start: Callable[[Sequence], bool] = _always) -> None:
        """Move sequences from the queue to the running ones while there is room.

        Args:
            start: gives a sequence its memory; False if it has to wait for it, and all that are
                behind it, too.
        """
        self._full = self._full and bool(self.running)
        while self.waiting:
            if len(self.running) >= self._max_running:
                self._reason = "slots"
                return
            if self._full or not start(self.waiting[0]):
                self._reason = "memory"
                return
            self._run(self.waiting.popleft())
        if self.prefill_only and not self.running and start(self.prefill_only[0]):
            self._run(self.prefill_only.popleft())

    def _run(self, sequence: Sequence) -> None:
        self.running.append(sequence)
        self._prefill_turns.append(sequence)

    def next_prefill(self) -> Sequence | None:
        """The sequence whose prompt is computed next: each in its turn, one chunk at a time."""
        for _ in range(len(self._prefill_turns)):
            sequence = self._prefill_turns.popleft()
            if sequence.prefilling and not sequence.finished:
                self._prefill_turns.append(sequence)
                return sequence
        return None

    def decoding(self) -> list[Sequence]:
        """All sequences that decode, those with the same adapter side by side."""
        ready = [s for s in self.running if not s.prefilling and not s.finished]
        return sorted(ready, key=lambda s: s.prefix_key)

    def preempt(self) -> Sequence | None:
        """Move the running sequence that came last back to the front of the queue.

        Returns it, to start over when another one has ended; None if no more than one runs.
        """
        running = [s for s in self.running if not s.finished]
        if len(running) < 2:
            return None
        last = running[-1]
        self.running = [s for s in self.running if s is not last]
        self._prefill_turns = deque(s for s in self._prefill_turns if s is not last)
        self.waiting.appendleft(last)
        self._full = True
        return last

    def find(self, ids: Iterable[str]) -> list[Sequence]:
        """The sequences with these request ids, waiting or running."""
        requested = set(ids)
        return [s for s in self.all_sequences if s.request.id in requested]

    def remove_finished(self) -> list[Sequence]:
        """Remove the finished sequences; returns those that were running."""
        ended = [s for s in self.running if s.finished]
        self.running = [s for s in self.running if not s.finished]
        self.waiting = deque(s for s in self.waiting if not s.finished)
        self.prefill_only = deque(s for s in self.prefill_only if not s.finished)
        self._prefill_turns = deque(s for s in self._prefill_turns if not s.finished)
        self._full = self._full and not ended
        return ended
