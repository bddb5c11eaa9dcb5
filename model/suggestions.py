"""What somebody probably meant who has mistyped a name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def closest(typed: str, known: Iterable[str]) -> str | None:
    """The closest of the known names, upper and lower case alike; None if none is close."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(typed.lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None


def did_you_mean(typed: str, known: Iterable[str], otherwise: str) -> str:
    """`Did you mean …?`, or what to do where nothing is close."""
    close = closest(typed, known)
    return f"Did you mean {close}?" if close else otherwise
