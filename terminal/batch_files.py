"""Files of a batch: opens the input, writes the output, and resumes an earlier run."""

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

from model.errors import LinlyError
from model.suggestions import did_you_mean
from terminal.jsonl import BatchRow, is_failure, matches_row

STANDARD_INPUT, STANDARD_OUTPUT = 0, 1
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass
class BatchProgress:
    """Counts the lines that have a result, and the failures among them; describes the first one."""

    done: int = 0
    failures: int = 0
    first_failure: str = ""

    def count(self, record: Mapping[str, Any]) -> None:
        self.done += 1
        if is_failure(record):
            self.failures += 1
            self.first_failure = self.first_failure or f"line {record['line']}: {record['error']}"


def open_source(path: Path | None) -> BufferedReader:
    """Opens a file, or standard input if `path` is None.

    Raises:
        LinlyError: it cannot be read, or is UTF-16.
    """
    try:
        # A new object: at exit, Python waits for the lock of `sys.stdin`, which a reader holds.
        source = path.open("rb") if path else open(STANDARD_INPUT, "rb", closefd=False)  # noqa: SIM115
        start = source.peek(2)[:2]
    except FileNotFoundError as error:
        names = [each.name for each in path.parent.glob("*")] if path else []
        remedy = did_you_mean(path.name if path else "", names, "check_data_file")
        raise LinlyError("input_missing", path=path, remedy=remedy) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise LinlyError("input_unreadable", path=_input_name(path), reason=reason) from error
    if start in UTF16:
        source.close()
        raise LinlyError("input_utf16", path=_input_name(path))
    return source


def empty_input_error(path: Path | None) -> LinlyError:
    return LinlyError("input_without_lines", path=_input_name(path))


def _input_name(path: Path | None) -> str:
    return str(path) if path else "Standard input"


@dataclass(frozen=True)
class Resumed:
    """Results of an earlier run in the output file, and their size in bytes."""

    progress: BatchProgress
    size: int = 0


def resume(path: Path | None, rows: Iterator[BatchRow], adapter: str | None) -> Resumed:
    """Matches the complete lines of `path` with the first rows, which it takes from `rows`.

    Raises:
        LinlyError: the file contains something else.
    """
    progress, size = BatchProgress(), 0
    if path is None or not path.is_file():
        return Resumed(progress)
    try:
        with path.open("rb") as file:
            for line in _complete_lines(file):
                record, row = _parse(line), next(rows, None)
                if row is None or not matches_row(record, row, adapter):
                    raise _mismatch_error(path, progress.done + 1)
                progress.count(record)
                size += len(line)
            # After results, an incomplete line is from a killed run. Without results, the file may
            # be another program's.
            if not progress.done and path.stat().st_size and not _is_incomplete_record(path):
                raise _mismatch_error(path, 1)
    except OSError as error:
        raise _write_error(path, error) from error
    return Resumed(progress, size)


def _complete_lines(file: BinaryIO) -> Iterator[bytes]:
    """All lines except an incomplete last one, from a killed run."""
    return (line for line in file if line.endswith(b"\n"))


def _is_incomplete_record(path: Path) -> bool:
    """Whether `path` has only the beginning of a JSON object."""
    text = path.read_bytes()
    return text.startswith(b"{") and _parse(text) is None


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _mismatch_error(path: Path, number: int) -> LinlyError:
    return LinlyError("output_line_mismatch", number=number, path=path)


class Output:
    """Writes each record at once: to a file after its first `size` bytes, or to standard output.

    Raises:
        LinlyError: it cannot be written.
        BrokenPipeError: the reader of the pipe is gone.
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
            raise _write_error(path, error) from error

    def write(self, record: Mapping[str, Any]) -> None:
        remaining = memoryview(f"{json.dumps(record, ensure_ascii=False)}\n".encode())
        try:
            while remaining:
                remaining = remaining[self._file.write(remaining) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _write_error(self._path, error) from error

    def close(self) -> None:
        self._file.close()


def _write_error(path: Path | None, error: OSError) -> LinlyError:
    reason = error.strerror or str(error)
    return LinlyError("output_unwritable", path=path or "Standard output", reason=reason)
