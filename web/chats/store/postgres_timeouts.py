"""Connections to PostgreSQL that nobody waits for without limit.

The limits that PostgreSQL keeps itself are none when it hangs, as a machine does that is paused.
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
    """The server has said nothing for too long."""


class BoundedConnection(psycopg.Connection[Any]):
    """Ends once the server, while it is waited for, has been silent for `seconds`; `silent` is
    called then."""

    seconds: float = math.inf
    silent: Callable[[], object] | None = None

    def wait(self, gen: PQGen[RV], interval: float = INTERVAL, timeout: float | None = None) -> RV:
        """As psycopg's, through which each of its calls waits.

        Raises:
            SilentError
        """
        try:
            return super().wait(_bounded(gen, self.seconds), interval, timeout)
        except SilentError:
            self.close()
            if self.silent is not None:
                self.silent()
            raise


def has_something(connection: psycopg.Connection[Any]) -> bool:
    """Whether the server has said something that nobody asked for, as it does when it goes."""
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(connection.fileno(), selectors.EVENT_READ)
            return bool(selector.select(0))
    except (OSError, ValueError, psycopg.Error):
        return True


def _bounded(gen: PQGen[RV], seconds: float) -> PQGen[RV]:
    """`gen`, which is told of each event of its socket, or that there was none."""
    heard = time.monotonic()
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            now = time.monotonic()
            if ready:
                heard = now
            elif now - heard > seconds:
                raise SilentError("it does not answer any more")
            wanted = gen.send(ready)
    except StopIteration as ended:
        result: RV = ended.value
        return result
