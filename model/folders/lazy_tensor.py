"""Tensors that are known before they are read, and the reading of their values from a file.

Values are read with read(), in bounded pieces, and the file is never mapped: if another program
cuts a mapped file short, the process ends (SIGBUS); a read that comes up short is an error message.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from io import FileIO
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.bounded_files import UnfitFileError, open_file
from model.diagnostics import folder_error
from model.display import is_plain_name
from model.system_resources import available_memory

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Names of the types: safetensors' and torch's.
TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2}  # others have 1
MAX_TENSORS = 100_000  # in a file
READ_BYTES = 64 << 20  # bytes of one read
LARGE = 1 << 30  # bytes of a tensor; for larger ones the free memory is checked first
TOO_SHORT = "file_too_short"
UNSOUND = "tensor_table_unsound"


@dataclass(frozen=True)
class LazyTensor:
    """A tensor whose values are read later. `dtype` is safetensors' name of its type.

    `read` returns the values on the CPU, contiguous, and keeps no copy.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * BYTES.get(self.dtype, 1)

    def renamed(self, name: str) -> LazyTensor:
        return replace(self, name=name)

    def then(self, change: Callable[[Tensor], Tensor]) -> LazyTensor:
        """Returns a tensor whose `read` applies `change`, which keeps the type and the shape."""
        read = self.read
        return replace(self, read=lambda: change(read()))


def dtype_name(dtype: torch.dtype) -> str:
    """Returns safetensors' name of a torch type."""
    torch_name = str(dtype).removeprefix("torch.")
    return next((name for name, other in TYPES.items() if other == torch_name), torch_name)


def torch_dtype(name: str) -> torch.dtype:
    """Returns the torch type with this name in safetensors."""
    import torch

    dtype: torch.dtype = getattr(torch, TYPES[name])
    return dtype


def bytes_of(tensor: Tensor) -> memoryview:
    """Returns the memory of a contiguous tensor, to be read or written."""
    import torch

    return tensor.reshape(-1).view(torch.uint8).numpy().data


def check_names(tensors: Mapping[Any, object]) -> None:
    """Checks the number and the names of the tensors of a file.

    Raises:
        UnfitFileError: there are too many, or a name is not a plain one.
    """
    if len(tensors) > MAX_TENSORS:
        raise UnfitFileError("too_many_tensors", most=MAX_TENSORS)
    if not all(isinstance(name, str) and is_plain_name(name) for name in tensors):
        raise UnfitFileError("tensor_name_not_plain")


def read_tensor(file: Path, dtype: str, shape: tuple[int, ...], offset: int) -> Tensor:
    """Reads a tensor of safetensors' type `dtype` from `offset` of a file, into memory of its own.

    Raises:
        ModelFolderError: the file cannot be read, ends too early, or the memory is too small.
    """
    import torch

    kind, count = torch_dtype(dtype), prod(shape)
    if not count:
        return torch.empty(shape, dtype=kind)
    try:
        with open_file(file) as opened:
            nbytes = count * kind.itemsize
            if offset < 0 or os.fstat(opened.fileno()).st_size < offset + nbytes:
                raise UnfitFileError(TOO_SHORT)
            _require_memory(file, nbytes)
            tensor = torch.empty(count, dtype=kind)
            opened.seek(offset)
            read_into(opened, bytes_of(tensor))
    except OSError as error:
        raise folder_error("file_unreadable", file=file, said=error.strerror) from error
    except UnfitFileError as error:
        raise folder_error("weights_torn", file=file, said=error) from error
    return tensor.view(shape)


def read_into(opened: FileIO, memory: memoryview) -> None:
    """Fills `memory` from an open file, in bounded pieces.

    Raises:
        UnfitFileError: the file ends too early.
    """
    at = 0
    while at < len(memory):
        count = opened.readinto(memory[at : at + READ_BYTES])
        if not count:
            raise UnfitFileError("file_became_shorter")
        at += count


def _require_memory(file: Path, nbytes: int) -> None:
    """Raises an error if a large tensor does not fit into memory: a sparse file, which takes no
    disk space, can declare tensors of any size."""
    if nbytes < LARGE:
        return
    free = available_memory()
    if nbytes > free:
        raise folder_error("tensor_too_large", file=file, needed=nbytes / 1e9, free=free / 1e9)


def read_bytes(file: Path, offset: int, nbytes: int) -> Tensor:
    """Reads bytes of any file, as uint8 [nbytes].

    Raises:
        ModelFolderError: the file ends too early.
    """
    return read_tensor(file, "U8", (nbytes,), offset)
