"""The two halves of a LoRA for one row, in int8 weights and float32 sums."""

from __future__ import annotations

import numpy as np

from model.layers.kernels.llvm_ir import I8
from model.layers.kernels.memory import bytes_at, floats
from model.layers.kernels.options import compiled
from model.layers.kernels.records import VECTOR
from model.layers.kernels.weighted_sum_ir import WIDEST, mix_tiles

# A is so narrow that a single sum would wait for itself: it is made in several parts.
PARTS = 4
single, widest = mix_tiles(I8, 1, 1), mix_tiles(I8, 1, WIDEST)
in_parts = mix_tiles(I8, 1, 1, PARTS)


@compiled
def lora_a(pair, strength, x, low):
    """low [rank] = strength * scale * (x A), for a PAIR record and the addresses of float32 `x`
    [ins] and `low`, which is padded to whole vectors."""
    step = (pair.rank + VECTOR - 1) // VECTOR * VECTOR
    even, values = pair.ins // PARTS * PARTS, floats(low, step)
    values[:] = 0
    for at in range(0, step, VECTOR):
        if even:
            in_parts(1, pair.a + at, step, 0, x, 0, even, low + 4 * at, 0)
        if even < pair.ins:
            single(1, pair.a + at + even * step, step, 0, x + 4 * even, 0, pair.ins - even,
                   low + 4 * at, 0)  # fmt: skip
    scale = floats(pair.scale, pair.rank)
    for k in range(pair.rank):
        values[k] *= scale[k] * np.float32(strength)


@compiled
def lora_b(pair, low, first, y, count):
    """y += low B from output `first` on, `count` of them; `low` and `y` are addresses."""
    at, b = 0, pair.b + first
    while at + WIDEST * VECTOR <= count:
        widest(1, b + at, pair.outs, VECTOR, low, 0, pair.rank, y + 4 * at, 0)
        at += WIDEST * VECTOR
    while at + VECTOR <= count:
        single(1, b + at, pair.outs, VECTOR, low, 0, pair.rank, y + 4 * at, 0)
        at += VECTOR
    out, factors = floats(y, count), floats(low, pair.rank)
    for k in range(pair.rank if at < count else 0):
        row = bytes_at(b + k * pair.outs, count)
        for i in range(at, count):
            out[i] += factors[k] * row[i]
