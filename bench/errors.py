"""Errors of the benchmarks: plain English, as they are used in a terminal."""

from __future__ import annotations

from model.errors import LinlyError
from model.translations import verbatim


class BenchError(LinlyError):
    """A measurement that cannot be made as it was asked for."""

    exit_status = 2

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(verbatim(message, remedy))


class PeerError(BenchError):
    """A peer did not start, or a request to it failed."""

    exit_status = 1


class PeerMissingError(PeerError):
    """A peer is not installed; the message says how to install it."""
