"""Files of what came late: a line for each, with the time and how late it was.

Processes write them while another one reads. Times are of `time.monotonic`, which is the same clock
for all processes of a Linux machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median


class LateFile:
    """A file that is written line by line; a context manager that closes it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="ascii", buffering=1)

    def __enter__(self) -> LateFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, seconds: float) -> None:
        """Something came so late, now."""
        self._file.write(json.dumps([time.monotonic(), seconds]) + "\n")


def longest(path: Path, since: float, until: float) -> float:
    """The most seconds that something was late, at any time between these two; 0.0 without any."""
    return max(
        (late for at, late in _lines(path) if at >= since and at - late <= until), default=0.0
    )


def usual(path: Path) -> float:
    """The median of all."""
    return median([late for _, late in _lines(path)] or [0.0])


def _lines(path: Path) -> Iterator[tuple[float, float]]:
    for line in path.read_text(encoding="ascii").splitlines(keepends=True):
        if line.endswith("\n"):  # else it is being written
            at, late = json.loads(line)
            yield at, late
