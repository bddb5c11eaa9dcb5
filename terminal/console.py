"""Input and output of the terminal: prints replies and errors, and reads lines with a history."""

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

from model.cleanup import at_end
from model.errors import LinlyError

CLEAR_LINE = "\r\x1b[K"
DIM, PLAIN = "\x1b[2m", "\x1b[0m"
# Control characters in a reply could move the cursor, or make the terminal send input itself.
CONTROL_CHARACTERS = {n: None for n in (*range(32), *range(127, 160)) if chr(n) not in "\t\n"}
MAX_HISTORY_LINES = 1000

# Reads a line: gets a prompt, and text that the user can edit. Raises EOFError after the last line,
# KeyboardInterrupt if the user drops the line, and UnicodeError if it is not text.
ReadLine = Callable[[str, str], str]


@dataclass
class Console:
    """Prints replies to `out`, and errors and status lines to `err`.

    If these are no terminals, there are no colours and no status lines.
    """

    out: TextIO
    err: TextIO
    _status_shown: bool = False

    def write(self, text: str) -> None:
        """Prints a part of a reply at once."""
        self._clear_status()
        self.out.write(text.translate(CONTROL_CHARACTERS))
        self.out.flush()

    def print(self, line: str) -> None:
        self.write(f"{line}\n")

    def print_note(self, line: str) -> None:
        """Prints a line in a dim colour after a reply, on a terminal only."""
        if self.out.isatty():
            self._clear_status()
            print(f"{DIM}{line}{PLAIN}", file=self.out, flush=True)

    def print_error(self, sentence: str) -> None:
        self._clear_status()
        print(sentence, file=self.err, flush=True)

    def show_status(self, line: str) -> None:
        """Shows a line about progress, on a terminal only; the next output replaces it."""
        if self.err.isatty():
            print(f"{CLEAR_LINE}{line}", end="", file=self.err, flush=True)
            self._status_shown = True

    def _clear_status(self) -> None:
        if self._status_shown:
            print(CLEAR_LINE, end="", file=self.err, flush=True)
            self._status_shown = False


def standard_console() -> Console:
    return Console(sys.stdout, sys.stderr)


def error_sentence(error: Exception) -> str:
    """Any error as a sentence."""
    if isinstance(error, LinlyError):
        text = str(error)
    else:
        reason = (str(error).splitlines() or [""])[0]
        text = f"Unexpected error: {type(error).__name__}: {reason}"
    return text if text.endswith((".", "?", "!")) else f"{text}."


class _WarningHandler(logging.Handler):
    """Prints this program's warnings as plain lines.

    Records with a stack trace are left out: their reply or the loading fails with a sentence.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.split(".")[0] == "model" and not record.exc_info:
            clear = CLEAR_LINE if sys.stderr.isatty() else ""
            print(f"{clear}{record.getMessage()}", file=sys.stderr)


def silence_libraries() -> None:
    """Keeps the libraries' warnings off the terminal."""
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(_WarningHandler(logging.WARNING))


def line_reader(history: Path) -> ReadLine:
    """Reads lines from the keyboard; `history` keeps them, readable for this user only."""
    try:
        import readline
    except ImportError:  # some builds of Python lack it
        return lambda prompt, _: input(prompt)
    _load_history(readline, history)
    _restore_terminal_at_end()

    def read(prompt: str, text: str) -> str:
        length = readline.get_current_history_length()
        readline.set_startup_hook(_insert(readline, text))
        try:
            return input(prompt)
        except EOFError:
            print()  # so that the shell's prompt has its own line
            raise
        finally:
            readline.set_startup_hook(None)
            if readline.get_current_history_length() > length:
                # At once, because the terminal may be killed. Some versions of readline lack this.
                with contextlib.suppress(OSError, AttributeError):
                    readline.append_history_file(1, history)

    return read


def _restore_terminal_at_end() -> None:
    """A signal can end the program while readline has switched off the echo."""
    try:
        import termios

        modes = termios.tcgetattr(sys.stdin)
    except (ImportError, OSError, ValueError, termios.error):
        return  # no terminal
    at_end(lambda: termios.tcsetattr(sys.stdin, termios.TCSANOW, modes))


def _insert(readline: ModuleType, text: str) -> Callable[[], None]:
    return lambda: readline.insert_text(text)


def _load_history(readline: ModuleType, history: Path) -> None:
    readline.set_history_length(MAX_HISTORY_LINES)
    with contextlib.suppress(OSError):  # a chat works without a history
        history.parent.mkdir(parents=True, exist_ok=True)
        history.touch(mode=0o600)
        history.chmod(0o600)
        readline.read_history_file(history)
