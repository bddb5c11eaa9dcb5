"""Escapes what clients could forge log lines with, or send to the operator's terminal.

Log records are made safe where they are created, whichever handler and formatter of whichever
library writes them. What is printed past the logging goes through streams that escape it, too.
"""

from __future__ import annotations

import io
import json
import logging
import re
import threading
import traceback
from typing import Any, TextIO

INDENT = "    "  # before each line of a traceback: none looks like a log line
MAX_LINE = 65_536  # characters of a line that does not end
# Tabs and ends of lines; on a terminal also the two codes with which progress bars are redrawn.
KEPT = "\n\t"
REDRAWN = re.compile(r"\r|\x1b\[[KA]")


def one_line(text: str) -> str:
    """`text` with control, bidirectional and invisible characters escaped, ends of lines too."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def some_lines(text: str) -> str:
    """`text` with the same characters escaped, but for tabs and ends of lines."""
    return "".join(char if char in KEPT else _escaped(char) for char in text)


def json_line(*args: Any, **kwargs: Any) -> str:
    """`json.dumps` whose result has no such characters either."""
    text = json.dumps(*args, **kwargs)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


class SafeRecord(logging.LogRecord):
    """A log record whose message is one line, and whose traceback is indented.

    Install it with `logging.setLogRecordFactory`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.exc_info and self.exc_info[0]:
            lines = "".join(traceback.format_exception(*self.exc_info)).rstrip("\n")
            self.exc_text = indented(lines)  # formatters take it where it is there

    def getMessage(self) -> str:  # noqa: N802 (logging's own name)
        return one_line(super().getMessage().rstrip("\n"))


def indented(text: str) -> str:
    """`text` with each line indented and escaped."""
    return "\n".join(INDENT + one_line(line) for line in text.split("\n"))


class EscapingStream(io.TextIOBase):
    """Writes to `stream` what is printed, escaped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if self._stream.isatty():
            parts = re.split(f"({REDRAWN.pattern})", text)  # every second one redraws
            safe = "".join(p if i % 2 else some_lines(p) for i, p in enumerate(parts))
        else:
            safe = some_lines(text)
        self._stream.write(safe)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding


class LoggedStream(io.TextIOBase):
    """Logs each line that is printed; of a line that is redrawn, what it shows at its end."""

    def __init__(self, logger: logging.Logger, level: int) -> None:
        self._logger = logger
        self._level = level
        self._line = ""
        self._lock = threading.RLock()
        self._is_logging = False

    encoding = "utf-8"

    def write(self, text: str) -> int:
        with self._lock:
            if self._is_logging:  # a handler that fails complains here
                return len(text)
            *lines, rest = (self._line + text.replace("\r\n", "\n")).split("\n")
            self._line = _redrawn(rest)[-MAX_LINE:]
            self._is_logging = True
            try:
                for line in filter(None, map(str.strip, map(_redrawn, lines))):
                    self._logger.log(self._level, "%s", line)
            finally:
                self._is_logging = False
        return len(text)

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True


def _redrawn(line: str) -> str:
    """What a progress bar shows at last; each of its states begins with a carriage return."""
    return "\r" + line.rpartition("\r")[2] if line.startswith("\r") else line


def _escaped(char: str) -> str:
    return char if char.isprintable() else ascii(char)[1:-1]
