"""Arrays over memory that is known by its address."""

from __future__ import annotations

import numpy as np
from numba import carray

from model.layers.kernels.intrinsics import pointer_at
from model.layers.kernels.options import compiled


@compiled
def floats(address, count):
    """float32 [count] at `address`."""
    return carray(pointer_at(address), (count,), np.float32)


@compiled
def bytes_at(address, count):
    """int8 [count] at `address`."""
    return carray(pointer_at(address), (count,), np.int8)


@compiled
def shorts(address, count):
    """int16 [count] at `address`; float16 travels as such too."""
    return carray(pointer_at(address), (count,), np.int16)
