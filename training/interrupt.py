"""Ctrl-C that ends a training after its step, with a checkpoint, and not in the middle of one."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class StopRequest:
    """Whether somebody asked for the end."""

    asked: bool = False


@contextmanager
def stoppable(told: Callable[[], None] = lambda: None) -> Iterator[StopRequest]:
    """SIGINT and SIGTERM ask for the end; a second one interrupts at once.

    Args:
        told: called when the end is asked for.

    Raises (inside of the block):
        KeyboardInterrupt: a second signal came.
    """
    stop = StopRequest()

    def ask(_number: int, _frame: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True
        told()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
