"""Consoles whose output tests can read."""

from __future__ import annotations

import io

from terminal.console import Console


class TerminalStream(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def make_console(*, terminal: bool = False) -> Console:
    kind = TerminalStream if terminal else io.StringIO
    return Console(kind(), kind())


def printed(console: Console) -> str:
    assert isinstance(console.out, io.StringIO)
    return console.out.getvalue()


def errors(console: Console) -> list[str]:
    assert isinstance(console.err, io.StringIO)
    return console.err.getvalue().splitlines()
