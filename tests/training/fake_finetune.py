"""A fake of finetune.py: prints the lines that a test gives it, and waits, fails or gets killed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from training.job import Command

PROGRAM = """
import os, signal, sys, time
go, *lines = sys.argv[1:]

def stop(*_):
    print("Interrupted after step 2 of 4. The same command continues.", file=sys.stderr)
    sys.exit(1)

signal.signal(signal.SIGINT, stop)
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
TIMEOUT_SECONDS = 60.0


def command(lines: Sequence[str], go: Path, calls: list[Sequence[str]] | None = None) -> Command:
    """A command that prints `lines`; at "<wait>" it waits until the file `go` exists.

    The flags of each call are appended to `calls`.
    """

    def make_command(flags: Sequence[str]) -> Sequence[str]:
        if calls is not None:
            calls.append(flags)
        return [sys.executable, "-c", PROGRAM, str(go), *lines]

    return make_command


def until(condition: Callable[[], bool]) -> None:
    """Waits until the condition is true."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the condition did not become true")
        time.sleep(0.01)
