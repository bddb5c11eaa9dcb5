"""What somebody types, with editing and a history where Python has `readline`."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TextIO

from model.types import LinlyError

CLEAR = "\r\x1b[K"
DIM, PLAIN = "\x1b[2m", "\x1b[0m"
# A reply could move the cursor, or make the terminal answer for whoever sits there.
CONTROLS = {n: None for n in (*range(32), *range(127, 160)) if chr(n) not in "\t\n"}


@dataclass
class Console:
    """A terminal, or whatever stands in for one: then nothing is coloured and no line redrawn."""

    out: TextIO
    err: TextIO
    _drawn: bool = False

    def write(self, text: str) -> None:
        """A piece of a reply, at once."""
        self._wipe()
        self.out.write(text.translate(CONTROLS))
        self.out.flush()

    def print(self, line: str) -> None:
        self.write(f"{line}\n")

    def remark(self, line: str) -> None:
        """A small line beside a reply, for people only."""
        if self.out.isatty():
            self._wipe()
            print(f"{DIM}{line}{PLAIN}", file=self.out, flush=True)

    def complain(self, sentence: str) -> None:
        self._wipe()
        print(sentence, file=self.err, flush=True)

    def draw(self, line: str) -> None:
        """A line about what is going on; whatever comes next takes its place."""
        if self.err.isatty():
            print(f"{CLEAR}{line}", end="", file=self.err, flush=True)
            self._drawn = True

    def _wipe(self) -> None:
        if self._drawn:
            print(CLEAR, end="", file=self.err, flush=True)
            self._drawn = False


def standard_screen() -> Console:
    return Console(sys.stdout, sys.stderr)


def error_sentence(error: Exception) -> str:
    """The error as one sentence, whatever it is."""
    if isinstance(error, LinlyError):
        text = str(error)
    else:
        said = (str(error).splitlines() or [""])[0]
        text = f"This went wrong: {type(error).__name__}: {said}"
    return text if text.endswith((".", "?", "!")) else f"{text}."


class _Warnings(logging.Handler):
    """The project's own warnings as plain lines. Whatever has a stack trace is told elsewhere, as
    the sentence that the reply or the loading failed with."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.split(".")[0] == "model" and not record.exc_info:
            print(f"{CLEAR if sys.stderr.isatty() else ''}{record.getMessage()}", file=sys.stderr)


def silence_libraries() -> None:
    """Keep libraries' remarks off the terminal."""
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(_Warnings(logging.WARNING))


MAX_LINES = 1000  # that are remembered


# Gets a prompt, and text that is there already and can be edited. Raises EOFError behind the last
# line, KeyboardInterrupt where one is dropped, and UnicodeError where it is no text.
Read = Callable[[str, str], str]


def line_reader(history: Path) -> Read:
    """The keyboard; lines are remembered in `history`, readable for this user alone."""
    try:
        import readline
    except ImportError:  # not every Python has it
        return lambda prompt, _: input(prompt)
    _prepare(readline, history)

    def read(prompt: str, typed: str) -> str:
        before = readline.get_current_history_length()
        readline.set_startup_hook(_insert(readline, typed))
        try:
            return input(prompt)
        except EOFError:
            print()  # what comes next, the shell perhaps, begins its own line
            raise
        finally:
            readline.set_startup_hook(None)
            if readline.get_current_history_length() > before:
                # At once, so that a killed terminal loses nothing. Not every readline has this.
                with contextlib.suppress(OSError, AttributeError):
                    readline.append_history_file(1, history)

    return read


def _insert(readline: ModuleType, text: str) -> Callable[[], None]:
    return lambda: readline.insert_text(text)


def _prepare(readline: ModuleType, history: Path) -> None:
    readline.set_history_length(MAX_LINES)
    with contextlib.suppress(OSError):  # a chat without a memory is one, too
        history.parent.mkdir(parents=True, exist_ok=True)
        history.touch(mode=0o600)
        history.chmod(0o600)
        readline.read_history_file(history)
