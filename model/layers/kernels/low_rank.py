"""The two halves of a LoRA for one row, in float16 weights and float32 sums."""

from __future__ import annotations

import numpy as np

from model.layers.kernels.half import mix_narrow, mix_rows
from model.layers.kernels.layout import HALVES
from model.layers.kernels.memory import floats
from model.layers.kernels.options import compiled


@compiled
def shrink(pair, strength, x, low):
    """low [padded rank] = strength * scaling * A x, for a PAIR record and the addresses of float32
    `x` [ins] and `low`."""
    mix_narrow(pair.a, (pair.rank + HALVES - 1) // HALVES, x, pair.ins, low)
    factor, values = np.float32(strength * pair.scaling), floats(low, pair.rank)
    for k in range(pair.rank):
        values[k] *= factor


@compiled
def expand(pair, low, first, y, count):
    """y += (B low) from output `first` on, `count` of them; `low` and `y` are addresses."""
    mix_rows(1, pair.b + 2 * first, count, 2 * pair.outs, low, 0, pair.rank, y, 0)
