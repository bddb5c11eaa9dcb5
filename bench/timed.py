"""A command as a whole process: its time, and the most memory that it had."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Timed:
    """`peak` is the most resident memory in bytes, `lines` what it wrote on stdout, each with the
    seconds since its start."""

    seconds: float
    peak: int
    lines: tuple[tuple[float, str], ...]


def timed(command: Sequence[str]) -> Timed:
    """Run a command to its end.

    Raises:
        CalledProcessError: it failed.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout  # noqa: S101 (a pipe was asked for)
    assert process.stderr  # noqa: S101
    with process.stdout as out, process.stderr as errors:
        lines = tuple((time.perf_counter() - began, line) for line in out)
        said = errors.read()  # little enough for the pipe: one sentence, or a few lines of progress
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=said)
    return Timed(time.perf_counter() - began, usage.ru_maxrss * 1024, lines)
