"""A stand-in for finetune.py: tells what it is told to, and waits where it is told to."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from training.job import Command

PROGRAM = """
import os, signal, sys, time
go, *lines = sys.argv[1:]

def end(*_):
    print("Interrupted after step 2 of 4. The same command goes on.", file=sys.stderr)
    sys.exit(1)

signal.signal(signal.SIGINT, end)
for line in lines:
    if line == "<wait>":
        while not os.path.exists(go):
            time.sleep(0.01)
    elif line == "<fail>":
        print("A warning of a library", file=sys.stderr)
        print("The training has diverged. Lower the rate.", file=sys.stderr)
        sys.exit(1)
    elif line == "<kill>":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        print(line, flush=True)
"""
PATIENCE = 60.0


def command(lines: Sequence[str], go: Path, seen: list[Sequence[str]] | None = None) -> Command:
    """A command that prints `lines`; "<wait>" among them waits until the file `go` is there.

    What it is given goes into `seen`.
    """

    def made(flags: Sequence[str]) -> Sequence[str]:
        if seen is not None:
            seen.append(flags)
        return [sys.executable, "-c", PROGRAM, str(go), *lines]

    return made


def until(true: Callable[[], bool]) -> None:
    """Wait for what must come."""
    last = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > last:
            raise TimeoutError("it did not come")
        time.sleep(0.01)
