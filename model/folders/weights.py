"""Weight files: which tensors they hold, each to be read alone and when it is wanted.

Each tensor is read through a mapping of its own, of just its place in the file: what is mapped
counts as this process's memory, and with the whole file all of a 13B would.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.findings import folder_error
from model.machine import available_memory
from model.types import ModelFolderError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# safetensors' names of the types, and torch's.
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
LFS_POINTER = b"version https://git-lfs"
RUNS_CODE = ("Unsupported global", "Unsupported class")  # torch's words
LENGTH = struct.Struct("<Q")  # of the header that a safetensors file begins with


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is known before it is read. `dtype` is safetensors' name of the type.

    `read` gives it on the CPU, contiguous, and keeps nothing of it.
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
        """What `change` makes of it, which has the same type and shape."""
        read = self.read
        return replace(self, read=lambda: change(read()))


def dtype_name(dtype: torch.dtype) -> str:
    """safetensors' name of one of torch's types."""
    plain = str(dtype).removeprefix("torch.")
    return next((name for name, torchs in TYPES.items() if torchs == plain), plain)


def torch_dtype(name: str) -> torch.dtype:
    """torch's type of safetensors' name."""
    import torch

    dtype: torch.dtype = getattr(torch, TYPES[name])
    return dtype


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor, to be read or written."""
    import torch

    return tensor.reshape(-1).view(torch.uint8).numpy().data


def list_tensors(file: Path) -> list[LazyTensor]:
    """The tensors of a safetensors or PyTorch file; of the latter none is read yet, either.

    Raises:
        ModelFolderError: it is torn, of a type that is not known, or would run code.
    """
    try:
        refuse_lfs_pointer(file)
        return _safetensors(file) if file.suffix == ".safetensors" else _pickled(file)
    except ModelFolderError:
        raise
    except OSError as error:
        raise folder_error("file_unreadable", file=file, said=error.strerror) from error
    except Exception as error:  # both libraries raise whatever their parsers do
        raise _torn(file, error) from error


def read_tensors(files: Iterable[Path]) -> Iterator[tuple[str, Tensor]]:
    """Every (name, tensor) of `files`, one at a time.

    Raises:
        ModelFolderError: as `list_tensors`, or the file ends too early.
    """
    for file in files:
        for tensor in list_tensors(file):
            yield tensor.name, tensor.read()


def refuse_lfs_pointer(file: Path) -> None:
    """What is left of large files in a clone without git-lfs.

    Raises:
        ModelFolderError: `file` is such a note; OSError where it cannot be read.
    """
    with file.open("rb") as opened:
        if opened.read(len(LFS_POINTER)) == LFS_POINTER:
            raise folder_error("lfs_pointer", file=file)


def _torn(file: Path, error: Exception) -> ModelFolderError:
    if any(words in str(error) for words in RUNS_CODE):
        return folder_error("pickle_runs_code", file=file)
    said = (str(error).splitlines() or [type(error).__name__])[0]
    if "Weights only" in said:  # torch's advice is to switch its protection off
        said = "it is no PyTorch file, or torn"
    return folder_error("weights_torn", file=file, said=said)


def _safetensors(file: Path) -> list[LazyTensor]:
    from safetensors import safe_open

    with safe_open(file, framework="np"):  # which checks the header against the file's size
        pass
    with file.open("rb") as opened:
        (length,) = LENGTH.unpack(opened.read(LENGTH.size))
        header: dict[str, Any] = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    start = LENGTH.size + length
    found = []
    for name, entry in header.items():
        if entry["dtype"] not in TYPES:
            raise folder_error("weights_type", file=file, name=name, dtype=entry["dtype"])
        shape = tuple(entry["shape"])
        offset = start + entry["data_offsets"][0]
        read = partial(_read, file, entry["dtype"], shape, offset)
        found.append((offset, LazyTensor(name, entry["dtype"], shape, read)))
    return [tensor for _, tensor in sorted(found, key=lambda pair: pair[0])]


def _read(file: Path, dtype: str, shape: tuple[int, ...], offset: int) -> Tensor:
    """A tensor over a mapping of its own place in the file, which goes when it goes."""
    import torch

    kind, count = torch_dtype(dtype), prod(shape)
    if not count:
        return torch.empty(shape, dtype=kind)
    begin = offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    length = offset - begin + count * kind.itemsize
    try:
        with file.open("rb") as opened:
            if os.fstat(opened.fileno()).st_size < begin + length:
                raise folder_error("weights_torn", file=file, said="it ends too early")
            # Private: whoever changes the tensor changes nothing in the file.
            mapped = mmap.mmap(opened.fileno(), length, access=mmap.ACCESS_COPY, offset=begin)
    except OSError as error:
        raise folder_error("file_unreadable", file=file, said=error.strerror) from error
    if hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_WILLNEED)
    if (offset - begin) % kind.itemsize:  # an old file, whose header has an odd length
        raw = bytearray(mapped[offset - begin :])
        return torch.frombuffer(raw, dtype=kind).view(shape)
    flat = torch.frombuffer(mapped, dtype=kind, count=count, offset=offset - begin)
    return flat.view(shape)


def _pickled(file: Path) -> list[LazyTensor]:
    """By the places that torch tells when nothing but the pickle is read (its notes on
    serialization: loading under FakeTensorMode)."""
    import zipfile

    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    if not zipfile.is_zipfile(file):
        return _old_pickled(file)
    # weights_only: a pickle may hold any code, and this loader refuses to run it.
    with FakeTensorMode():
        held = torch.load(file, map_location="cpu", weights_only=True)
    return [_placed(file, name, tensor) for name, tensor in _weights(file, held).items()]


def _weights(file: Path, held: Any) -> Mapping[str, Tensor]:
    import torch

    if isinstance(held, Mapping) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in held.items()
    ):
        for name, value in held.items():
            if dtype_name(value.dtype) not in TYPES:
                raise folder_error("weights_type", file=file, name=name, dtype=value.dtype)
        return held
    raise folder_error("weights_unnamed", file=file)


def _placed(file: Path, name: str, tensor: Tensor) -> LazyTensor:
    dtype, shape, stride = dtype_name(tensor.dtype), tuple(tensor.shape), tensor.stride()
    storage: Any = tensor.untyped_storage()
    start = storage._checkpoint_offset + tensor.storage_offset() * tensor.element_size()
    if tensor.is_contiguous():
        return LazyTensor(name, dtype, shape, partial(_read, file, dtype, shape, start))
    extent = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))

    def read() -> Tensor:
        return _read(file, dtype, (extent,), start).as_strided(shape, stride).contiguous()

    return LazyTensor(name, dtype, shape, read)


def _old_pickled(file: Path) -> list[LazyTensor]:
    """A file from before torch 1.6, which can only be read as a whole."""
    import torch

    size, free = file.stat().st_size, available_memory()
    if size > free:
        raise folder_error("pickle_old", file=file, needed=size / 1e9, free=free / 1e9)
    held = torch.load(file, map_location="cpu", weights_only=True)

    def lazy(name: str, tensor: Tensor) -> LazyTensor:
        return LazyTensor(
            name, dtype_name(tensor.dtype), tuple(tensor.shape), lambda: tensor.contiguous()
        )

    return [lazy(name, tensor) for name, tensor in _weights(file, held).items()]


def read_bytes(file: Path, offset: int, nbytes: int) -> Tensor:
    """Bytes of any file, as uint8 [nbytes].

    Raises:
        ModelFolderError: the file ends too early.
    """
    return _read(file, "U8", (nbytes,), offset)
