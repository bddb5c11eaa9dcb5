"""How everything here is compiled: without the GIL, cached on disk, division as the hardware's."""

from __future__ import annotations

from typing import Any

from numba import njit

compiled: Any = njit(nogil=True, cache=True, error_model="numpy")
# Sums may be reordered, so that they run by the vector. NaN stays NaN.
fast: Any = njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp", "nsz"}
)
