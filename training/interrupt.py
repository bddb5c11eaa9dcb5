"""Turns Ctrl-C into a request to stop after the current step, with a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class StopRequest:
    """Whether the user has asked the training to stop."""

    requested: bool = False


@contextmanager
def stoppable(on_request: Callable[[], None] = lambda: None) -> Iterator[StopRequest]:
    """Handles SIGINT and SIGTERM: the first one requests a stop, the second one interrupts.

    Args:
        on_request: called from the signal handler when a stop is requested.

    Raises (inside the block):
        KeyboardInterrupt: a second signal came.
    """
    stop = StopRequest()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True
        on_request()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
