"""BackgroundLoader: what is said of a load that fails."""

from __future__ import annotations

import pytest
import torch

from model.config.settings import Settings
from model.diagnostics import folder_error
from model.errors import OutOfMemoryError
from model.serving.background_loader import BackgroundLoader

TORN = folder_error("weights_torn", file="x", reason="y")
NO_MEMORY_TO_READ = folder_error("weights_torn", file="x", reason="")
NO_MEMORY_TO_READ.__cause__ = MemoryError()
CASES = [
    (MemoryError(), "loading_out_of_memory"),
    (torch.OutOfMemoryError("CUDA out of memory."), "loading_out_of_memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "loading_out_of_memory"),
    (NO_MEMORY_TO_READ, "loading_out_of_memory"),
    (OutOfMemoryError("out_of_memory"), "loading_out_of_memory"),
    (TORN, "weights_torn"),
    (KeyError("x"), "loading_failed"),
]


@pytest.mark.parametrize(("error", "code"), CASES, ids=[repr(error)[:30] for error, _ in CASES])
def test_failed_load_is_explained(error: Exception, code: str) -> None:
    """Too little memory was a file that is torn, or an error of torch."""

    def load(*_: object) -> None:
        raise error

    loader = BackgroundLoader(Settings(), load)  # type: ignore[arg-type]
    loader.start()
    loader.wait(60)
    state = loader.state
    assert state.error is not None
    assert state.error.code == code
