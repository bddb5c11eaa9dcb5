"""What somebody types, with editing and a history where Python has `readline`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

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
