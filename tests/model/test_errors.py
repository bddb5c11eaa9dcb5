"""Which errors mean that memory ran out, and what is said of them."""

from __future__ import annotations

import errno

import pytest
import torch

from model.diagnostics import adapter_error, finding_of, folder_error
from model.doctor.check_base import collect_findings
from model.errors import LinlyError, OutOfMemoryError, RequestError, lack_of_memory, lacks_memory
from model.translations import verbatim


def raised_from(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


LACKS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("unable to mmap 9 bytes from file <x>: Cannot allocate memory (12)"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    Exception("Error while deserializing: I/O error: Cannot allocate memory (os error 12)"),
    OutOfMemoryError("out_of_memory"),
    raised_from(adapter_error("adapter_unreadable", reason="x"), MemoryError()),
    raised_from(ValueError(), raised_from(folder_error("spm_unreadable", file="x"), MemoryError())),
]
DOES_NOT = [
    RuntimeError("size mismatch"),
    OSError(errno.ENOSPC, "No space left on device"),
    ValueError("'out of memory' is no number"),
    RequestError(verbatim("out of memory", "")),
    raised_from(ValueError(), ValueError()),
    KeyError("can't allocate memory"),
]


@pytest.mark.parametrize("error", LACKS, ids=repr)
def test_error_of_memory_is_known(error: Exception) -> None:
    assert lacks_memory(error)


@pytest.mark.parametrize("error", DOES_NOT, ids=repr)
def test_other_error_is_none_of_memory(error: Exception) -> None:
    """A file that names memory in its contents is still a bad file."""
    assert not lacks_memory(error)


def test_named_lack_of_memory_keeps_its_name() -> None:
    named = OutOfMemoryError("adapter_lacks_memory", name="poet")
    assert lack_of_memory(named) is named
    assert lack_of_memory(ValueError()) is None
    assert str(lack_of_memory(MemoryError())).startswith("There is not enough memory. End")


def test_circle_of_causes_ends() -> None:
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    assert not lacks_memory(first)


def test_memory_is_no_finding_about_a_folder() -> None:
    """`python -m model check` called a sound file damaged."""
    torn = folder_error("weights_torn", file="x", reason="y")
    assert finding_of(torn).code == "weights_torn"
    with pytest.raises(OutOfMemoryError, match="There is not enough memory"):
        finding_of(raised_from(torn, MemoryError()))  # type: ignore[arg-type]

    def check() -> list[LinlyError]:
        raise MemoryError

    with pytest.raises(OutOfMemoryError):
        list(collect_findings(check))  # type: ignore[arg-type]
