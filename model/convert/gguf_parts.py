"""Names of the parts of a split GGUF file: NAME-00001-of-00002.gguf and so on."""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import PurePath

from model.diagnostics import folder_error

PART = re.compile(r"^(.*)-(\d{5})-of-(\d{5})\.gguf$", re.DOTALL)
MAX_PARTS = 1000
# A file that was cut without regard to its content, so that its pieces have to be joined first.
PIECES = ("*.gguf-split-*", "*.gguf.part*")


def part_names(name: str) -> list[str]:
    """Returns the names of all parts of the split file of which `name` is one; only `name` if it is
    no part."""
    match = PART.match(name)
    if match is None or not 1 <= int(match[2]) <= int(match[3]) <= MAX_PARTS:
        return [name]
    return [f"{match[1]}-{number:05d}-of-{match[3]}.gguf" for number in range(1, int(match[3]) + 1)]


def check_parts(name: str, existing: Container[str]) -> list[str]:
    """Returns the names of all parts of the split file of which `name` is one.

    Raises:
        ModelFolderError: one of them is not among the `existing` names.
    """
    names = part_names(name)
    for number, part in enumerate(names, start=1):
        if part not in existing:
            raise folder_error(
                "gguf_part_missing", name=PurePath(part).name, number=number, count=len(names)
            )
    return names


def is_piece(name: str) -> bool:
    """Whether `name` is the name of a piece of a GGUF file that was cut anywhere."""
    return any(PurePath(name).match(pattern) for pattern in PIECES)
