"""Weight files: which tensors they hold, each to be read alone and when it is wanted.

Tensors are read with read(), in bounded pieces, and never mapped: a file that another program cuts
short while it is mapped ends the process (SIGBUS), and a read that comes up short is a sentence.
The lists of tensors that files begin with are foreign input: bounded, and held against the file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from io import FileIO
from itertools import chain
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.bounded_files import UnfitFileError, check_not_lfs_pointer, open_file, parse_json
from model.diagnostics import folder_error
from model.display import is_plain_name
from model.errors import ModelFolderError
from model.folders.torch_archive import check_archive, is_archive
from model.system_resources import available_memory
from model.translations import LocalizedText

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
RUNS_CODE = ("Unsupported global", "Unsupported class")  # torch's words
LENGTH = struct.Struct("<Q")  # of the header that a safetensors file begins with
MAX_HEADER_BYTES = 16 << 20  # a mixture of experts with 60,000 tensors takes 8 MB
MAX_TENSORS = 100_000  # in a file
MAX_DIMENSIONS = 8
PIECE = 64 << 20  # bytes of one read
LARGE = 1 << 30  # bytes of a tensor from which on it is asked whether there is memory for it
AHEAD_BYTES = 64 << 20  # of a tensor that is read while the one before it is used
SMALL_FILE = 256 << 20  # bytes of a file that may be read in one go
TOO_SHORT = "file_too_short"
UNSOUND = "tensor_table_unsound"


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


def list_tensors(file: Path, of_adapter: bool = False) -> list[LazyTensor]:
    """The tensors of a safetensors or PyTorch file; of the latter none is read yet, either.

    `of_adapter`: hundreds of small tensors, for which a request waits. A safetensors file that is
    not large is read in one go, with the first that is wanted. PyTorch files from before 2020,
    when there were none, are refused: those would be read as a whole, however large.

    Raises:
        ModelFolderError: it is torn, of a type that is not known, or would run code.
    """
    try:
        check_not_lfs_pointer(file)
        if file.suffix == ".safetensors":
            return _safetensors(file, in_one_go=of_adapter)
        return _pickled(file, old_pickles=not of_adapter)
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
    listed = chain.from_iterable(map(list_tensors, files))
    with ThreadPoolExecutor(1, "weights") as ahead:
        waiting: _Waiting | None = None
        for tensor in listed:
            early = ahead.submit(tensor.read) if tensor.nbytes <= AHEAD_BYTES else None
            if waiting:
                yield waiting.read()
            waiting = _Waiting(tensor, early)
        if waiting:
            yield waiting.read()


@dataclass(frozen=True)
class _Waiting:
    """A tensor whose turn comes, being read already if it is not large."""

    tensor: LazyTensor
    early: Future[Tensor] | None

    def read(self) -> tuple[str, Tensor]:
        return self.tensor.name, self.early.result() if self.early else self.tensor.read()


def _torn(file: Path, error: Exception) -> ModelFolderError:
    if any(words in str(error) for words in RUNS_CODE):
        return folder_error("pickle_runs_code", file=file)
    said = (str(error).splitlines() or [type(error).__name__])[0]
    if "Weights only" in said:  # torch's advice is to switch its protection off
        said = "it is not a PyTorch file, or it is damaged"
    return folder_error("weights_torn", file=file, said=said)


def _safetensors(file: Path, in_one_go: bool) -> list[LazyTensor]:
    with open_file(file) as opened:
        size = os.fstat(opened.fileno()).st_size
        prefix = opened.read(LENGTH.size)
        if len(prefix) < LENGTH.size:
            raise UnfitFileError(TOO_SHORT)
        (length,) = LENGTH.unpack(prefix)
        if length > MAX_HEADER_BYTES:
            raise UnfitFileError("tensor_table_too_large", megabytes=MAX_HEADER_BYTES >> 20)
        header = parse_json(_read_exactly(opened, length).decode("utf-8"))
    if not isinstance(header, dict):
        raise UnfitFileError(UNSOUND)
    header.pop("__metadata__", None)
    _check_names(header)
    read = _WholeFile(file).read if in_one_go and size <= SMALL_FILE else partial(_read, file)
    found = [_entry(file, name, header[name], LENGTH.size + length, read) for name in header]
    found.sort(key=lambda pair: pair[0])
    _check_covered(found, LENGTH.size + length, size)
    return [tensor for _, tensor in found]


def _read_exactly(opened: FileIO, length: int) -> bytes:
    content = opened.read(length)
    while content and len(content) < length and (more := opened.read(length - len(content))):
        content += more
    if len(content) < length:
        raise UnfitFileError(TOO_SHORT)
    return content


def _check_names(held: Mapping[Any, object]) -> None:
    if len(held) > MAX_TENSORS:
        raise UnfitFileError("too_many_tensors", most=MAX_TENSORS)
    if not all(isinstance(name, str) and is_plain_name(name) for name in held):
        raise UnfitFileError("tensor_name_not_plain")


def _entry(
    file: Path,
    name: str,
    entry: Any,
    start: int,
    read: Callable[[str, tuple[int, ...], int], Tensor],
) -> tuple[int, LazyTensor]:
    """A tensor of a safetensors file, whose contents begin at `start`, and its place."""
    dtype, shape, place = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if dtype not in TYPES:
        raise folder_error("weights_type", file=file, name=name, dtype=dtype)
    if not _are_sizes(shape) or not _are_sizes(place) or len(place) != 2:
        raise UnfitFileError(UNSOUND)
    begin, end = place
    sizes = tuple(shape)
    tensor = LazyTensor(name, dtype, sizes, partial(read, dtype, sizes, start + begin))
    if len(shape) > MAX_DIMENSIONS or end - begin != tensor.nbytes:
        raise UnfitFileError(UNSOUND)
    return start + begin, tensor


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _check_covered(found: list[tuple[int, LazyTensor]], start: int, size: int) -> None:
    """Whether the tensors lie one behind the other up to the end of the file, as the format says:
    so none overlaps another, and none lies outside."""
    for offset, tensor in found:
        if offset != start:
            raise UnfitFileError(UNSOUND)
        start += tensor.nbytes
    if start != size:
        raise UnfitFileError(TOO_SHORT if size < start else UNSOUND)


def _read(file: Path, dtype: str, shape: tuple[int, ...], offset: int) -> Tensor:
    """A tensor in memory of its own, filled from its place in the file."""
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
            _fill(opened, bytes_of(tensor))
    except OSError as error:
        raise folder_error("file_unreadable", file=file, said=error.strerror) from error
    except UnfitFileError as error:
        raise folder_error("weights_torn", file=file, said=error) from error
    return tensor.view(shape)


class _WholeFile:
    """Reads a file in one go when the first of its tensors is wanted; they are views of that."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._content: Tensor | None = None

    def read(self, dtype: str, shape: tuple[int, ...], offset: int) -> Tensor:
        kind = torch_dtype(dtype)
        if self._content is None:
            self._content = _read(self._file, "U8", (self._file.stat().st_size,), 0)
        part = self._content[offset : offset + prod(shape) * kind.itemsize]
        if len(part) < prod(shape) * kind.itemsize:
            raise folder_error("weights_torn", file=self._file, said=LocalizedText(TOO_SHORT))
        if offset % kind.itemsize:  # an old file, whose table has an odd length
            part = part.clone()
        return part.view(kind).view(shape)


def _fill(opened: FileIO, memory: memoryview) -> None:
    at = 0
    while at < len(memory):
        count = opened.readinto(memory[at : at + PIECE])
        if not count:
            raise UnfitFileError("file_became_shorter")
        at += count


def _require_memory(file: Path, nbytes: int) -> None:
    """A file without contents on the disk (a sparse one) can tell tensors of any size."""
    if nbytes < LARGE:
        return
    free = available_memory()
    if nbytes > free:
        raise folder_error("tensor_too_large", file=file, needed=nbytes / 1e9, free=free / 1e9)


def _pickled(file: Path, old_pickles: bool) -> list[LazyTensor]:
    """By the places that torch tells when nothing but the pickle is read (its notes on
    serialization: loading under FakeTensorMode)."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    if not is_archive(file):
        if not old_pickles:
            raise UnfitFileError("file_old_pytorch")
        return _old_pickled(file)
    check_archive(file)
    # weights_only: a pickle may hold any code, and this loader refuses to run it.
    with FakeTensorMode():
        held = torch.load(file, map_location="cpu", weights_only=True)
    return [_placed(file, name, tensor) for name, tensor in _weights(file, held).items()]


def _weights(file: Path, held: Any) -> Mapping[str, Tensor]:
    import torch

    if isinstance(held, Mapping) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in held.items()
    ):
        _check_names(held)
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
    if prod(shape) > file.stat().st_size:  # one value that is told to fill a whole matrix
        raise UnfitFileError(UNSOUND)

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
