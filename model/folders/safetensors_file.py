"""Lists the tensors of a safetensors file: https://github.com/huggingface/safetensors

The table at the beginning of the file is foreign input: its size is bounded, and its entries are
checked against the file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from functools import partial
from io import FileIO
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.bounded_files import UnfitFileError, open_file, parse_json
from model.diagnostics import folder_error
from model.folders.lazy_tensor import (
    TOO_SHORT,
    TYPES,
    UNSOUND,
    LazyTensor,
    check_names,
    read_tensor,
    torch_dtype,
)
from model.translations import LocalizedText

if TYPE_CHECKING:
    from torch import Tensor

LENGTH = struct.Struct("<Q")  # of the table, at the beginning of a file
MAX_TABLE_BYTES = 16 << 20  # a mixture of experts with 60,000 tensors takes 8 MB
MAX_DIMENSIONS = 8
SMALL_FILE = 256 << 20  # bytes of a file that may be read at once

# Reads a tensor by its type, its shape and its offset in the file.
ReadTensor = Callable[[str, tuple[int, ...], int], "Tensor"]


def list_safetensors(file: Path, at_once: bool) -> list[LazyTensor]:
    """Lists the tensors of a file in the order of their offsets.

    Args:
        file: the file.
        at_once: whether a small file is read as a whole with the first of its tensors.

    Raises:
        UnfitFileError: the table does not fit the file.
        ModelFolderError: a tensor has an unknown type.
    """
    with open_file(file) as opened:
        size = os.fstat(opened.fileno()).st_size
        prefix = opened.read(LENGTH.size)
        if len(prefix) < LENGTH.size:
            raise UnfitFileError(TOO_SHORT)
        (length,) = LENGTH.unpack(prefix)
        if length > MAX_TABLE_BYTES:
            raise UnfitFileError("tensor_table_too_large", megabytes=MAX_TABLE_BYTES >> 20)
        table = parse_json(_read_exactly(opened, length).decode("utf-8"))
    if not isinstance(table, dict):
        raise UnfitFileError(UNSOUND)
    table.pop("__metadata__", None)
    check_names(table)
    start = LENGTH.size + length
    read: ReadTensor = partial(read_tensor, file)
    if at_once and size <= SMALL_FILE:
        read = _SmallFile(file).read
    entries = [_parse_entry(file, name, table[name], start, read) for name in table]
    entries.sort(key=lambda entry: entry[0])
    _check_contiguous(entries, start, size)
    return [tensor for _, tensor in entries]


def _read_exactly(opened: FileIO, length: int) -> bytes:
    content = opened.read(length)
    while content and len(content) < length and (more := opened.read(length - len(content))):
        content += more
    if len(content) < length:
        raise UnfitFileError(TOO_SHORT)
    return content


def _parse_entry(
    file: Path, name: str, entry: Any, start: int, read: ReadTensor
) -> tuple[int, LazyTensor]:
    """Returns the offset of a tensor in the file, whose values begin at `start`, and the tensor."""
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if dtype not in TYPES:
        raise folder_error("weights_type", file=file, name=name, dtype=dtype)
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise UnfitFileError(UNSOUND)
    begin, end = offsets
    sizes = tuple(shape)
    tensor = LazyTensor(name, dtype, sizes, partial(read, dtype, sizes, start + begin))
    if len(shape) > MAX_DIMENSIONS or end - begin != tensor.nbytes:
        raise UnfitFileError(UNSOUND)
    return start + begin, tensor


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _check_contiguous(entries: list[tuple[int, LazyTensor]], start: int, size: int) -> None:
    """Checks that the tensors follow each other without gaps up to the end of the file, as the
    format requires: so none overlaps another, and none is outside the file."""
    for offset, tensor in entries:
        if offset != start:
            raise UnfitFileError(UNSOUND)
        start += tensor.nbytes
    if start != size:
        raise UnfitFileError(TOO_SHORT if size < start else UNSOUND)


class _SmallFile:
    """Reads a file at once with the first of its tensors; the tensors are views of its content."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._content: Tensor | None = None

    def read(self, dtype: str, shape: tuple[int, ...], offset: int) -> Tensor:
        kind = torch_dtype(dtype)
        if self._content is None:
            self._content = read_tensor(self._file, "U8", (self._file.stat().st_size,), 0)
        part = self._content[offset : offset + prod(shape) * kind.itemsize]
        if len(part) < prod(shape) * kind.itemsize:
            raise folder_error("weights_torn", file=self._file, said=LocalizedText(TOO_SHORT))
        if offset % kind.itemsize:  # the table of an old file can have an odd length
            part = part.clone()
        return part.view(kind).view(shape)
