"""Every number of a model, read: are they numbers at all?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from model.diagnostics import Finding, finding, finding_of
from model.folders.weights import LazyTensor
from model.types import FolderError, Progress

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
