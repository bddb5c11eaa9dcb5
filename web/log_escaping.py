"""Escapes control characters in logs and output, so that clients cannot forge log lines or send
control sequences to the operator's terminal.

Log records are escaped where they are created, so it does not matter which handler or formatter
writes them. Streams replace stdout and stderr, and escape what is printed.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import threading
import traceback
from typing import Any, TextIO

INDENT = "    "  # before each line of a traceback, so that it cannot look like a log line
MAX_LINE = 65_536  # characters of a line without an end
ALLOWED = "\n\t"
REDRAW_CODES = re.compile(r"\r|\x1b\[[KA]")  # allowed on a terminal, for progress bars


def one_line(text: str) -> str:
    """Escapes control, bidirectional and invisible characters, including line ends."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def multiple_lines(text: str) -> str:
    """Escapes the same characters except tabs and line ends."""
    return "".join(char if char in ALLOWED else _escaped(char) for char in text)


def json_line(*args: Any, **kwargs: Any) -> str:
    """As `json.dumps`, with these characters escaped in the result."""
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
            self.exc_text = indented(lines)  # formatters use it instead of formatting `exc_info`

    def getMessage(self) -> str:  # noqa: N802 (logging's own name)
        return one_line(super().getMessage().rstrip("\n"))


def indented(text: str) -> str:
    """Indents and escapes each line."""
    return "\n".join(INDENT + one_line(line) for line in text.split("\n"))


class EscapingStream(io.TextIOBase):
    """A text stream that escapes what is printed and writes it to `stream`.

    What cannot be written, as on a full disk, is lost: it is no reason to end the server.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if self._stream.isatty():
            parts = re.split(f"({REDRAW_CODES.pattern})", text)  # every second one is a code
            safe = "".join(p if i % 2 else multiple_lines(p) for i, p in enumerate(parts))
        else:
            safe = multiple_lines(text)
        with contextlib.suppress(OSError):
            self._stream.write(safe)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
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
    """A text stream that logs each printed line; of a redrawn line, only its final content."""

    def __init__(self, logger: logging.Logger, level: int) -> None:
        self._logger = logger
        self._level = level
        self._line = ""
        self._lock = threading.RLock()
        self._is_logging = False

    encoding = "utf-8"

    def write(self, text: str) -> int:
        with self._lock:
            if self._is_logging:  # a log handler that fails prints its error to this stream
                return len(text)
            *lines, last = (self._line + text.replace("\r\n", "\n")).split("\n")
            self._line = _last_drawn(last)[-MAX_LINE:]
            self._is_logging = True
            try:
                for line in filter(None, map(str.strip, map(_last_drawn, lines))):
                    self._logger.log(self._level, "%s", line)
            finally:
                self._is_logging = False
        return len(text)

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True


def _last_drawn(line: str) -> str:
    """Returns the last state of a progress bar; each state begins with a carriage return."""
    return "\r" + line.rpartition("\r")[2] if line.startswith("\r") else line


def _escaped(char: str) -> str:
    return char if char.isprintable() else ascii(char)[1:-1]
