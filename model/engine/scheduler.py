"""Who runs next: first come, first served, with a bounded number at the same time.

What is only read ahead runs alone, while there is no reply to work on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from model.engine.sequence import Sequence


def _anyway(_: Sequence) -> bool:
    return True


class Scheduler:
    """The sequences that wait and those that run. Only the engine's thread touches it.

    `running` is in the order of arrival, and all of it arrived before what is `waiting`.
    `unread` are those that wait to be read ahead: they are in nobody's way, so nobody counts them.
    """

    def __init__(self, max_running: int) -> None:
        self._max_running = max_running
        self.waiting: deque[Sequence] = deque()
        self.unread: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._turns: deque[Sequence] = deque()  # the running ones, for their next chunk
        self._full = False  # somebody had to go: nobody comes before somebody has ended
        self._reason: str | None = None

    def __bool__(self) -> bool:
        return bool(self.waiting or self.running or self.unread)

    @property
    def replies(self) -> int:
        """How many run that make text."""
        return sum(not sequence.read_only for sequence in self.running)

    @property
    def all_sequences(self) -> list[Sequence]:
        return [*self.waiting, *self.unread, *self.running]

    @property
    def waiting_reason(self) -> str | None:
        """What the first in the queue waits for, "slots" or "memory"; None if nobody waits."""
        return self._reason if self.waiting else None

    def add(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            (self.unread if sequence.read_only else self.waiting).append(sequence)

    def preempt_prefill_only(self) -> Sequence | None:
        """Send what is being read back to its queue if a reply waits; None if there is no need.

        It comes before the others there, and begins anew.
        """
        reading = next((s for s in self.running if s.read_only), None)
        if reading is None or not self.waiting:
            return None
        self.running = []
        self._turns.clear()
        self.unread.appendleft(reading)
        return reading

    def admit(self, start: Callable[[Sequence], bool] = _anyway) -> None:
        """Move sequences from the queue to the running ones while there is room.

        Args:
            start: gives a sequence its memory; False if it has to wait for it, and the others
                behind it.
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
        if self.unread and not self.running and start(self.unread[0]):
            self._run(self.unread.popleft())

    def _run(self, sequence: Sequence) -> None:
        self.running.append(sequence)
        self._turns.append(sequence)

    def next_prefill(self) -> Sequence | None:
        """The sequence whose prompt is computed next: each in its turn, one chunk at a time."""
        for _ in range(len(self._turns)):
            sequence = self._turns.popleft()
            if sequence.prefilling and not sequence.finished:
                self._turns.append(sequence)
                return sequence
        return None

    def decoding(self) -> list[Sequence]:
        """Everything that decodes, sequences with the same adapter side by side."""
        ready = [s for s in self.running if not s.prefilling and not s.finished]
        return sorted(ready, key=lambda s: s.key)

    def preempt(self) -> Sequence | None:
        """Send the one that came last back to the front of the queue, to begin again when
        another has ended; None if no more than one runs.
        """
        running = [s for s in self.running if not s.finished]
        if len(running) < 2:
            return None
        last = running[-1]
        self.running = [s for s in self.running if s is not last]
        self._turns = deque(s for s in self._turns if s is not last)
        self.waiting.appendleft(last)
        self._full = True
        return last

    def find(self, ids: Iterable[str]) -> list[Sequence]:
        """The sequences with these request ids, waiting or running."""
        wanted = set(ids)
        return [s for s in self.all_sequences if s.request.id in wanted]

    def remove_finished(self) -> list[Sequence]:
        """Forget what has finished; those that ran."""
        ended = [s for s in self.running if s.finished]
        self.running = [s for s in self.running if not s.finished]
        self.waiting = deque(s for s in self.waiting if not s.finished)
        self.unread = deque(s for s in self.unread if not s.finished)
        self._turns = deque(s for s in self._turns if not s.finished)
        self._full = self._full and not ended
        return ended
