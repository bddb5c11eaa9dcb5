"""Who runs next: first come, first served, with a bounded number at the same time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from model.engine.sequence import Sequence


class Scheduler:
    """The sequences that wait and those that run. Only the engine's thread touches it."""

    def __init__(self, max_running: int) -> None:
        self._max_running = max_running
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    def __bool__(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, sequences: Iterable[Sequence]) -> None:
        self.waiting.extend(sequences)

    def admit(self) -> None:
        """Move sequences from the queue to the running ones while there is room."""
        while self.waiting and len(self.running) < self._max_running:
            self.running.append(self.waiting.popleft())

    def next_prefill(self) -> Sequence | None:
        """The sequence whose prompt is computed next: the one that came first."""
        return next((s for s in self.running if s.prefilling and not s.finished), None)

    def decoding(self) -> list[Sequence]:
        """Everything that decodes, sequences with the same adapter side by side."""
        ready = [s for s in self.running if not s.prefilling and not s.finished]
        return sorted(ready, key=lambda s: (s.request.adapter or "", s.request.adapter_scale))

    def find(self, ids: Iterable[str]) -> list[Sequence]:
        """The sequences with these request ids, waiting or running."""
        wanted = set(ids)
        return [s for s in (*self.waiting, *self.running) if s.request.id in wanted]

    def retire(self) -> None:
        """Forget what has finished."""
        self.running = [s for s in self.running if not s.finished]
        self.waiting = deque(s for s in self.waiting if not s.finished)
