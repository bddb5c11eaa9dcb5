"""Lists the tensors of a PyTorch file without reading their values.

Only the pickle is read, under FakeTensorMode: it has the offsets of the values (torch's notes on
serialization).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.bounded_files import UnfitFileError
from model.diagnostics import folder_error
from model.folders.lazy_tensor import (
    TYPES,
    UNSOUND,
    LazyTensor,
    check_names,
    dtype_name,
    read_tensor,
)
from model.folders.torch_archive import check_archive, is_archive
from model.system_resources import available_memory

if TYPE_CHECKING:
    from torch import Tensor


def list_pickled(file: Path, allow_old_format: bool) -> list[LazyTensor]:
    """Lists the tensors of a PyTorch file. A file in the old format is read as a whole.

    Raises:
        UnfitFileError: the file is torn or in the old format, which is not allowed.
        ModelFolderError: it holds something else than tensors by name.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    if not is_archive(file):
        if not allow_old_format:
            raise UnfitFileError("file_old_pytorch")
        return _list_old_pickle(file)
    check_archive(file)
    # weights_only: a pickle can contain any code, and this loader refuses to run it.
    with FakeTensorMode():
        content = torch.load(file, map_location="cpu", weights_only=True)
    return [_lazy_tensor(file, name, tensor) for name, tensor in _weights(file, content).items()]


def is_old_pickle(file: Path) -> bool:
    """Whether it is a PyTorch file from before 2020: listing reads all of it into memory."""
    return file.suffix != ".safetensors" and not is_archive(file)


def _weights(file: Path, content: Any) -> Mapping[str, Tensor]:
    """Returns the content of a file, which is tensors by name."""
    import torch

    if isinstance(content, Mapping) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        check_names(content)
        for name, value in content.items():
            if dtype_name(value.dtype) not in TYPES:
                raise folder_error("weights_type", file=file, name=name, dtype=value.dtype)
        return content
    raise folder_error("weights_unnamed", file=file)


def _lazy_tensor(file: Path, name: str, tensor: Tensor) -> LazyTensor:
    """Returns the tensor for a fake one, whose storage has the offset of the values."""
    dtype, shape, stride = dtype_name(tensor.dtype), tuple(tensor.shape), tensor.stride()
    storage: Any = tensor.untyped_storage()
    start = storage._checkpoint_offset + tensor.storage_offset() * tensor.element_size()
    if tensor.is_contiguous():
        return LazyTensor(name, dtype, shape, partial(read_tensor, file, dtype, shape, start))
    extent = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if prod(shape) > file.stat().st_size:  # a file can declare one value as a whole matrix
        raise UnfitFileError(UNSOUND)

    def read() -> Tensor:
        return read_tensor(file, dtype, (extent,), start).as_strided(shape, stride).contiguous()

    return LazyTensor(name, dtype, shape, read)


def _list_old_pickle(file: Path) -> list[LazyTensor]:
    """Lists a file from before torch 1.6, which can only be read as a whole."""
    import torch

    size, free = file.stat().st_size, available_memory()
    if size > free:
        raise folder_error("pickle_old", file=file, needed=size / 1e9, free=free / 1e9)
    content = torch.load(file, map_location="cpu", weights_only=True)

    def lazy(name: str, tensor: Tensor) -> LazyTensor:
        return LazyTensor(
            name, dtype_name(tensor.dtype), tuple(tensor.shape), lambda: tensor.contiguous()
        )

    return [lazy(name, tensor) for name, tensor in _weights(file, content).items()]
