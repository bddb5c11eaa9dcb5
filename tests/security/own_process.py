"""Runs code in its own process, which is killed if it hangs."""

from __future__ import annotations

import subprocess
import sys

from model.config.settings import CHECKOUT

HANG_SECONDS = 300  # far more than any of the tests takes, on any machine


def survives(code: str, *args: object) -> str:
    """Returns what `code` prints; fails if the process fails or hangs."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=HANG_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-500:]}"
    return done.stdout
