"""Connections to PostgreSQL with a bound on every wait.

PostgreSQL's own timeouts do not help when it hangs, as on a machine that is paused.
"""

from __future__ import annotations

import math
import selectors
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

if TYPE_CHECKING:
    from psycopg.abc import PQGen

RV = TypeVar("RV")
INTERVAL = 0.1  # seconds between two looks at the clock


class SilentError(psycopg.OperationalError):
    """The server has sent nothing for too long."""


class BoundedConnection(psycopg.Connection[Any]):
    """Connection that is closed when a call has waited for `max_silence` seconds without a sign of
    the server; `on_silence` is called then."""

    max_silence: float = math.inf
    on_silence: Callable[[], object] | None = None

    def wait(self, gen: PQGen[RV], interval: float = INTERVAL, timeout: float | None = None) -> RV:
        """Overrides psycopg's method, through which each of its calls waits.

        Raises:
            SilentError
        """
        try:
            return super().wait(bound_silence(gen, self.max_silence), interval, timeout)
        except SilentError:
            self.close()
            if self.on_silence is not None:
                self.on_silence()
            raise


def has_unread_data(connection: psycopg.Connection[Any]) -> bool:
    """Whether the server has sent something without a request, as it does when it shuts down."""
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(connection.fileno(), selectors.EVENT_READ)
            return bool(selector.select(0))
    except (OSError, ValueError, psycopg.Error):
        return True


def bound_silence(gen: PQGen[RV], seconds: float) -> PQGen[RV]:
    """Wraps a generator of psycopg's, which is sent each event of its socket, or that there was
    none.

    Raises:
        SilentError: there was no event for `seconds`.
    """
    last_event = time.monotonic()
    try:
        awaited = next(gen)
        while True:
            ready = yield awaited
            now = time.monotonic()
            if ready:
                last_event = now
            elif now - last_event > seconds:
                raise SilentError("it does not answer any more")
            awaited = gen.send(ready)
    except StopIteration as ended:
        result: RV = ended.value
        return result
