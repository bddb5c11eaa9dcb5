"""Checks the integrity of a base's files: compares md5 checksums, and reads every weight once.

The lists of checksums, such as checklist.chk, have lines of an md5 sum, two spaces and a name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from model.bounded_files import read_file
from model.diagnostics import Finding, finding, finding_of
from model.errors import FolderError
from model.folders.lazy_tensor import LazyTensor
from model.types import Progress

LISTS = ("checklist.chk", "tokenizer_checklist.chk")
LINE = re.compile(r"^([0-9a-fA-F]{32})\s+\*?(\S.*)$")
QUICK_BYTES = 100_000_000  # larger files are read only with --deep
CHUNK_BYTES = 1 << 24
FLOATS = ("F64", "F32", "F16", "BF16")


class ChecksumEntry(NamedTuple):
    """A line of a list of checksums: the list, the md5 sum, and the file's name."""

    list_name: str
    checksum: str
    name: str


def check_numbers(
    tensors: Sequence[tuple[Path, LazyTensor]], progress: Progress
) -> Iterator[Finding]:
    """Checks the values of tensors, each with its file.

    `progress` gets the share of the bytes that have been read, 0 to 1.
    """
    total = sum(tensor.nbytes for _, tensor in tensors) or 1
    done = 0
    for file, tensor in tensors:
        yield from _check_values(file, tensor)
        done += tensor.nbytes
        progress(done / total)


def _check_values(file: Path, tensor: LazyTensor) -> Iterator[Finding]:
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
    """The number of bytes that `check_sums` will read."""
    names = {
        name
        for file in LISTS
        if (folder / file).is_file()
        for _, name in read_list(folder / file)[0]
    }
    sizes = [(folder / name).stat().st_size for name in names if (folder / name).is_file()]
    return sum(size for size in sizes if deep or size <= QUICK_BYTES)


def check_sums(folder: Path, deep: bool, progress: Progress) -> Iterator[Finding]:
    """Compares the files with the lists of checksums in `folder`.

    `progress` gets the share of the bytes that have been read, 0 to 1.
    """
    entries: list[ChecksumEntry] = []
    for list_name in LISTS:
        if (folder / list_name).is_file():
            sums, unreadable = read_list(folder / list_name)
            entries += [ChecksumEntry(list_name, *pair) for pair in sums]
            if unreadable:
                yield finding("checksum_list_unreadable", list=list_name)
    existing = [entry for entry in entries if (folder / entry.name).is_file()]
    for entry in entries:
        if entry not in existing:
            yield finding("checksum_absent", list=entry.list_name, name=entry.name)
    to_compare = [e for e in existing if deep or (folder / e.name).stat().st_size <= QUICK_BYTES]
    yield from _compare(folder, to_compare, progress)
    for list_name in LISTS:
        skipped = [e for e in existing if e.list_name == list_name and e not in to_compare]
        if skipped:
            yield finding("checksum_skipped", list=list_name, count=len(skipped))


def read_list(file: Path) -> tuple[list[tuple[str, str]], int]:
    """(checksum, name) of each line, and the number of lines without these.

    A line with a path counts among the latter: lists have files of their own folder only.
    """
    try:
        lines = read_file(file).decode("utf-8", errors="replace").splitlines()
    except (OSError, ValueError):
        return [], 1
    matches = [LINE.match(line.strip()) for line in lines if line.strip()]
    pairs = [(m[1].lower(), m[2].strip()) for m in matches if m and Path(m[2]).name == m[2].strip()]
    return pairs, len(matches) - len(pairs)


def _compare(
    folder: Path, entries: Sequence[ChecksumEntry], progress: Progress
) -> Iterator[Finding]:
    total = sum((folder / entry.name).stat().st_size for entry in entries) or 1
    done = 0
    for entry in entries:
        checksum = hashlib.md5(usedforsecurity=False)
        with (folder / entry.name).open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                checksum.update(chunk)
                done += len(chunk)
                progress(done / total)
        if checksum.hexdigest() != entry.checksum:
            yield finding(
                "checksum_differs", list=entry.list_name, name=entry.name,
                found=checksum.hexdigest(), expected=entry.checksum,
            )  # fmt: skip
