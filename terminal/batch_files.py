"""The files of a batch: what is read, what is written, and where an earlier run has stopped."""

from __future__ import annotations

import codecs
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, BinaryIO

from model.suggestions import did_you_mean
from model.types import LinlyError
from terminal.jsonl import BatchRow
from terminal.results import is_failure, matches_row

STANDARD_INPUT, STANDARD_OUTPUT = 0, 1
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass
class BatchProgress:
    """How many lines have their result, and how many of these are failures; the first of them."""

    done: int = 0
    failures: int = 0
    first: str = ""

    def count(self, result: Mapping[str, Any]) -> None:
        self.done += 1
        if is_failure(result):
            self.failures += 1
            self.first = self.first or f"line {result['line']}: {result['error']}"


def open_source(path: Path | None) -> BufferedReader:
    """A file, or standard input without one.

    Raises:
        LinlyError: it cannot be read, or is no text that could be.
    """
    try:
        # Its own object: at its end Python waits for the lock of `sys.stdin` that a reader holds.
        source = path.open("rb") if path else open(STANDARD_INPUT, "rb", closefd=False)  # noqa: SIM115
        begins = source.peek(2)[:2]
    except FileNotFoundError as error:
        known = [each.name for each in path.parent.glob("*")] if path else []
        close = did_you_mean(path.name if path else "", known, "check_data_file")
        raise LinlyError("input_missing", path=path, remedy=close) from error
    except OSError as error:
        said = error.strerror or str(error)
        raise LinlyError("input_unreadable", path=_input(path), reason=said) from error
    if begins in UTF16:
        source.close()
        raise LinlyError("input_utf16", path=_input(path))
    return source


def empty_input_error(path: Path | None) -> LinlyError:
    return LinlyError("input_without_lines", path=_input(path))


def _input(path: Path | None) -> str:
    return str(path) if path else "Standard input"


@dataclass(frozen=True)
class Resumed:
    """What an earlier run has left: its results, and how many bytes of the file they are."""

    tally: BatchProgress
    size: int = 0


def resume(path: Path | None, rows: Iterator[BatchRow], adapter: str | None) -> Resumed:
    """Match what `path` holds with the first of `rows`, which are taken, whole lines only.

    Raises:
        LinlyError: it holds something else.
    """
    tally, size = BatchProgress(), 0
    if path is None or not path.is_file():
        return Resumed(tally)
    try:
        with path.open("rb") as file:
            for line in _whole_lines(file):
                result, row = _parsed(line), next(rows, None)
                if row is None or not matches_row(result, row, adapter):
                    raise _others(path, tally.done + 1)
                tally.count(result)
                size += len(line)
            # Behind results lies what a killed run has left; without any, it may be anybody's.
            if not tally.done and path.stat().st_size and not _is_torn(path):
                raise _others(path, 1)
    except OSError as error:
        raise _unwritable(path, error) from error
    return Resumed(tally, size)


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    """All lines but a last one that a killed run has left unfinished."""
    return (line for line in file if line.endswith(b"\n"))


def _is_torn(path: Path) -> bool:
    """Whether all that `path` holds is the beginning of a result: an object that does not end."""
    text = path.read_bytes()
    return text.startswith(b"{") and _parsed(text) is None


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _others(path: Path, number: int) -> LinlyError:
    return LinlyError(
        "output_line_mismatch",
        number=number,
        path=path,
    )


class Output:
    """Where results go, each at once: a file behind its first `size` bytes, or standard output.

    Raises:
        LinlyError: it cannot be written.
        BrokenPipeError: nobody reads any more.
    """

    def __init__(self, path: Path | None, size: int = 0) -> None:
        self._path = path
        try:
            if path is None:
                self._file = FileIO(STANDARD_OUTPUT, "w", closefd=False)
                return
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            self._file = FileIO(descriptor, "a")
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                self._file.truncate(size)
        except OSError as error:
            raise _unwritable(path, error) from error

    def put(self, result: Mapping[str, Any]) -> None:
        left = memoryview(f"{json.dumps(result, ensure_ascii=False)}\n".encode())
        try:
            while left:
                left = left[self._file.write(left) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def close(self) -> None:
        self._file.close()


def _unwritable(path: Path | None, error: OSError) -> LinlyError:
    said = error.strerror or str(error)
    return LinlyError("output_unwritable", path=path or "Standard output", reason=said)
