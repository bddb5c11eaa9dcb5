"""The two halves of a LoRA for one row, in float16 weights and float32 sums."""

from __future__ import annotations

import numpy as np

from model.layers.kernels.atoms import half_to_float
from model.layers.kernels.memory import shorts
from model.layers.kernels.options import fast


@fast
def shrink(pair, strength, x, low):
    """low [rank] = strength * scaling * A x, for a PAIR record and float32 `x` [ins]."""
    factor = np.float32(strength * pair.scaling)
    for k in range(pair.rank):
        row = shorts(pair.a + 2 * k * pair.ins, pair.ins)
        total = np.float32(0)
        for i in range(len(row)):
            total += half_to_float(row[i]) * x[i]
        low[k] = factor * total


@fast
def expand(pair, low, first, y):
    """y += (B low) from output `first` on, as many as `y` float32 [n] has."""
    for k in range(pair.rank):
        row = shorts(pair.b + 2 * (k * pair.outs + first), len(y))
        factor = low[k]
        for i in range(len(y)):
            y[i] += factor * half_to_float(row[i])
