"""What each file of a folder is for, in one line."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from model.display import printable_name


@dataclass(frozen=True)
class FileRole:
    """A file of a folder, its size in bytes, and what it is for in both languages."""

    name: str
    size: int
    roles: dict[str, str]


def files_of(folder: Path) -> list[FileRole]:
    """The visible files of `folder`, by name."""
    paths = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    return [
        FileRole(printable_name(path.name), path.stat().st_size, _role(path.name)) for path in paths
    ]


def _role(name: str) -> dict[str, str]:
    return next(entry for entry in _entries() if fnmatch(name, entry["pattern"]))


@cache
def _entries() -> list[dict[str, str]]:
    file = Path(__file__).with_name("roles.toml")
    return list(tomllib.loads(file.read_text(encoding="utf-8"))["role"])
