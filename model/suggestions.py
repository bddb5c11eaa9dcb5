"""Suggests the name that a user probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path

from model.translations import LocalizedText

CONFIGS = ("config.json", "adapter_config.json", "params.json")
WEIGHTS = (".safetensors", ".bin", ".gguf", ".pth")


def closest(typed: str, candidates: Iterable[str]) -> str | None:
    """The closest of `candidates`, ignoring case; None if none is close."""
    by_lower = {name.lower(): name for name in candidates}
    close = difflib.get_close_matches(typed.lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None


def closest_folder(typed: Path, parents: Iterable[Path]) -> Path | None:
    """The folder in one of `parents` with the closest name.

    Only folders with a model or an adapter count: a user never means a folder of source code.
    """
    folders = {
        path.name: path
        for parent in parents
        if parent.is_dir()
        for path in parent.iterdir()
        if path.is_dir() and _has_model(path)
    }
    close = closest(typed.name, folders)
    return folders[close] if close else None


def _has_model(folder: Path) -> bool:
    try:
        return any(p.name in CONFIGS or p.suffix in WEIGHTS for p in folder.iterdir())
    except OSError:
        return False


def did_you_mean(
    typed: str,
    candidates: Iterable[str],
    otherwise: str,
    *,
    display: Callable[[str], object] = str,
    **facts: object,
) -> LocalizedText:
    """A remedy: "Did you mean …?", or the text with the code `otherwise` if no name is close.

    Args:
        display: the suggestion for a name, for example its path.
        facts: the facts of the text `otherwise`.
    """
    close = closest(typed, candidates)
    if close is None:
        return LocalizedText(otherwise, facts)
    return LocalizedText("did_you_mean", {"name": display(close)})
