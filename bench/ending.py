"""How measurements end: with figures, with a sentence, or from outside, and then cleanly, too."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from model.types import LinlyError


def end_cleanly() -> None:
    """Let SIGTERM end the program as an exception, with exit status 143."""
    signal.signal(signal.SIGTERM, _end)


def _end(*_: Any) -> None:
    """A second signal must not break off what the first one set going."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)  # as shells tell it


def told(measure: Callable[[], str]) -> int:
    """Print what `measure` gives, or why it gives nothing; the exit status."""
    end_cleanly()
    try:
        print(measure())
    except LinlyError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines() or [str(error)]
        print(f"The measurement broke off: {said[-1]}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # as shells tell it
    return 0
