"""Checks that a base's files are whole: md5 lists, and every number read once.

The lists are checklist.chk and its like: lines of an md5 sum, two spaces and a name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from model.bounded_files import read_file
from model.diagnostics import Finding, finding, finding_of
from model.errors import FolderError
from model.folders.lazy_tensor import LazyTensor
from model.types import Progress

LISTS = ("checklist.chk", "tokenizer_checklist.chk")
LINE = re.compile(r"^([0-9a-fA-F]{32})\s+\*?(\S.*)$")
QUICK_BYTES = 100_000_000  # larger files are only read when somebody asks for it
PIECE = 1 << 24
FLOATS = ("F64", "F32", "F16", "BF16")


def check_numbers(held: Sequence[tuple[Path, LazyTensor]], progress: Progress) -> Iterator[Finding]:
    """What is wrong with the contents of tensors, each given with its file.

    `progress` gets the share of the bytes that are read, 0 to 1.
    """
    total = sum(tensor.nbytes for _, tensor in held) or 1
    done = 0
    for file, tensor in held:
        yield from _check(file, tensor)
        done += tensor.nbytes
        progress(done / total)


def _check(file: Path, tensor: LazyTensor) -> Iterator[Finding]:
    import torch

    if tensor.dtype not in FLOATS:
        return
    try:
        values = tensor.read()
    except FolderError as error:
        yield finding_of(error)
        return
    count = 0
    if not values.sum(dtype=torch.float32).isfinite():  # one pass, and no second tensor
        count = int((~values.isfinite()).sum())
    if count:
        yield finding("tensor_not_finite", name=tensor.name, file=file, count=count)
    elif values.numel() and not values.any():
        yield finding("tensor_zero", name=tensor.name, file=file)


def bytes_to_sum(folder: Path, deep: bool) -> int:
    """How much `check_sums` is going to read."""
    named = {
        name
        for file in LISTS
        if (folder / file).is_file()
        for _, name in read_list(folder / file)[0]
    }
    sizes = [(folder / name).stat().st_size for name in named if (folder / name).is_file()]
    return sum(size for size in sizes if deep or size <= QUICK_BYTES)


def check_sums(folder: Path, deep: bool, progress: Progress) -> Iterator[Finding]:
    """Whether the files are those that the lists in `folder` tell.

    `progress` gets the share of what has been read, 0 to 1.
    """
    entries = []
    for name in LISTS:
        if (folder / name).is_file():
            sums, unread = read_list(folder / name)
            entries += [(name, *pair) for pair in sums]
            if unread:
                yield finding("checksum_list_unreadable", list=name)
    here = [entry for entry in entries if (folder / entry[2]).is_file()]
    for name, _, named in entries:
        if not (folder / named).is_file():
            yield finding("checksum_absent", list=name, name=named)
    small = [entry for entry in here if deep or (folder / entry[2]).stat().st_size <= QUICK_BYTES]
    yield from _differing(folder, small, progress)
    for name in LISTS:
        skipped = [entry for entry in here if entry[0] == name and entry not in small]
        if skipped:
            yield finding("checksum_skipped", list=name, count=len(skipped))


def read_list(file: Path) -> tuple[list[tuple[str, str]], int]:
    """(sum, name) for each line, and how many lines are neither that nor empty. A name that is
    more than a name counts as unreadable: lists only tell of their own folder."""
    try:
        lines = read_file(file).decode("utf-8", errors="replace").splitlines()
    except (OSError, ValueError):
        return [], 1
    found = [LINE.match(line.strip()) for line in lines if line.strip()]
    pairs = [(m[1].lower(), m[2].strip()) for m in found if m and Path(m[2]).name == m[2].strip()]
    return pairs, len(found) - len(pairs)


def _differing(
    folder: Path, entries: list[tuple[str, str, str]], progress: Progress
) -> Iterator[Finding]:
    total = sum((folder / named).stat().st_size for _, _, named in entries) or 1
    done = 0
    for name, expected, named in entries:
        told = hashlib.md5(usedforsecurity=False)
        with (folder / named).open("rb") as file:
            while piece := file.read(PIECE):
                told.update(piece)
                done += len(piece)
                progress(done / total)
        if told.hexdigest() != expected:
            yield finding(
                "checksum_differs", list=name, name=named, found=told.hexdigest(), expected=expected
            )
