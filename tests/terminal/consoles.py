"""Screens that tests can read."""

from __future__ import annotations

import io

from terminal.console import Console


class Terminal(io.StringIO):
    """Text that was printed on a terminal."""

    def isatty(self) -> bool:
        return True


def screen(*, terminal: bool = False) -> Console:
    kind = Terminal if terminal else io.StringIO
    return Console(kind(), kind())


def printed(shown: Console) -> str:
    assert isinstance(shown.out, io.StringIO)
    return shown.out.getvalue()


def complaints(shown: Console) -> list[str]:
    assert isinstance(shown.err, io.StringIO)
    return shown.err.getvalue().splitlines()
