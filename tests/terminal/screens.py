"""Screens that tests can read."""

from __future__ import annotations

import io

from terminal.screen import Screen


class Terminal(io.StringIO):
    """Text that was printed on a terminal."""

    def isatty(self) -> bool:
        return True


def screen(*, terminal: bool = False) -> Screen:
    kind = Terminal if terminal else io.StringIO
    return Screen(kind(), kind())


def printed(shown: Screen) -> str:
    assert isinstance(shown.out, io.StringIO)
    return shown.out.getvalue()


def complaints(shown: Screen) -> list[str]:
    assert isinstance(shown.err, io.StringIO)
    return shown.err.getvalue().splitlines()
