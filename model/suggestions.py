"""Suggests the name that a user probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from model.translations import LocalizedText

CONFIGS = ("config.json", "adapter_config.json", "params.json")
WEIGHTS = (".safetensors", ".bin", ".gguf", ".pth")


def closest(typed: str, known: Iterable[str]) -> str | None:
    """The closest of the known names, upper and lower case alike; None if none is close."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(typed.lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None


def closest_folder(typed: Path, places: Iterable[Path]) -> Path | None:
    """The folder in one of `places` whose name is closest, among those that hold a model or an
    adapter: other folders, of source code for example, are never what a user means."""
    folders = {
        path.name: path
        for place in places
        if place.is_dir()
        for path in place.iterdir()
        if path.is_dir() and _holds_model(path)
    }
    close = closest(typed.name, folders)
    return folders[close] if close else None


def _holds_model(folder: Path) -> bool:
    try:
        return any(p.name in CONFIGS or p.suffix in WEIGHTS for p in folder.iterdir())
    except OSError:
        return False


def did_you_mean(
    typed: str, known: Iterable[str], otherwise: str, **facts: object
) -> LocalizedText:
    """A remedy: `Did you mean …?`, or the text of the code `otherwise` where nothing is close."""
    close = closest(typed, known)
    if close is None:
        return LocalizedText(otherwise, facts)
    return LocalizedText("did_you_mean", {"name": close})
