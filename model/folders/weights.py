"""Lists and reads the tensors of weight files, safetensors or PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model.bounded_files import check_not_lfs_pointer
from model.diagnostics import folder_error
from model.errors import ModelFolderError
from model.folders.lazy_tensor import LazyTensor
from model.folders.pytorch_file import list_pickled
from model.folders.safetensors_file import list_safetensors

if TYPE_CHECKING:
    from torch import Tensor

RUNS_CODE = ("Unsupported global", "Unsupported class")  # in torch's error messages
PREFETCH_BYTES = 64 << 20  # of a tensor that is read while the one before it is used


def list_tensors(file: Path, of_adapter: bool = False) -> list[LazyTensor]:
    """Lists the tensors of a safetensors or PyTorch file, without reading their values.

    Args:
        file: the file.
        of_adapter: a request waits for hundreds of small tensors. So a safetensors file that is
            not large is read at once, with the first tensor. PyTorch files from before 2020 are
            refused: they would be read as a whole, however large, and no adapter is so old.

    Raises:
        ModelFolderError: it is torn, has an unknown type, or would run code.
    """
    try:
        check_not_lfs_pointer(file)
        if file.suffix == ".safetensors":
            return list_safetensors(file, at_once=of_adapter)
        return list_pickled(file, allow_old_format=not of_adapter)
    except ModelFolderError:
        raise
    except OSError as error:
        raise folder_error("file_unreadable", file=file, reason=error.strerror) from error
    except Exception as error:  # both libraries raise whatever their parsers do
        raise _torn(file, error) from error


def read_tensors(tensors: Iterable[LazyTensor]) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, values), one tensor at a time; prefetches the next one if it is small.

    Raises:
        ModelFolderError: a file ends too early.
    """
    with ThreadPoolExecutor(1, "weights") as prefetcher:
        previous: _PendingTensor | None = None
        for tensor in tensors:
            is_small = tensor.nbytes <= PREFETCH_BYTES
            values = prefetcher.submit(tensor.read) if is_small else None
            if previous:
                yield previous.read()
            previous = _PendingTensor(tensor, values)
        if previous:
            yield previous.read()


@dataclass(frozen=True)
class _PendingTensor:
    """The next tensor, and its values if they are prefetched."""

    tensor: LazyTensor
    values: Future[Tensor] | None

    def read(self) -> tuple[str, Tensor]:
        return self.tensor.name, self.values.result() if self.values else self.tensor.read()


def _torn(file: Path, error: Exception) -> ModelFolderError:
    if any(words in str(error) for words in RUNS_CODE):
        return folder_error("pickle_runs_code", file=file)
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if "Weights only" in reason:  # torch's message advises to switch its protection off
        reason = "it is not a PyTorch file, or it is damaged"
    return folder_error("weights_torn", file=file, reason=reason)
