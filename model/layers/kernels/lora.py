"""The two halves of a LoRA for one row, in int8 weights and float32 sums."""

from __future__ import annotations

import numpy as np

from model.layers.kernels.intrinsics import compiled, float32_array, int8_array
from model.layers.kernels.llvm_ir import I8
from model.layers.kernels.records import VECTOR
from model.layers.kernels.weighted_sum_ir import SINGLE_ROW_VECTORS, weighted_sum_tiles

# A is so narrow that a single sum would wait for itself: it is made in several parts.
PARTIAL_SUMS = 4
one_vector_tile = weighted_sum_tiles(I8, 1, 1)
wide_tile = weighted_sum_tiles(I8, 1, SINGLE_ROW_VECTORS)
partial_sums_tile = weighted_sum_tiles(I8, 1, 1, PARTIAL_SUMS)


@compiled
def lora_a(pair, adapter_scale, x, low_rank):
    """low_rank [rank] = adapter_scale * scale * (x A), for a LORA_PAIR record and the addresses of
    float32 `x` [in_features] and `low_rank`, which is padded to full vectors."""
    step = (pair.rank + VECTOR - 1) // VECTOR * VECTOR
    even = pair.in_features // PARTIAL_SUMS * PARTIAL_SUMS
    sums = float32_array(low_rank, step)
    sums[:] = 0
    for at in range(0, step, VECTOR):
        if even:
            partial_sums_tile(1, pair.a + at, step, 0, x, 0, even, low_rank + 4 * at, 0)
        if even < pair.in_features:
            one_vector_tile(1, pair.a + at + even * step, step, 0, x + 4 * even, 0,
                            pair.in_features - even, low_rank + 4 * at, 0)  # fmt: skip
    scale = float32_array(pair.scale, pair.rank)
    for k in range(pair.rank):
        sums[k] *= scale[k] * np.float32(adapter_scale)


@compiled
def lora_b(pair, low_rank, first, y, count):
    """y += low_rank B for `count` outputs from `first` on; `low_rank` and `y` are addresses."""
    at, b = 0, pair.b + first
    while at + SINGLE_ROW_VECTORS * VECTOR <= count:
        wide_tile(1, b + at, pair.out_features, VECTOR, low_rank, 0, pair.rank, y + 4 * at, 0)
        at += SINGLE_ROW_VECTORS * VECTOR
    while at + VECTOR <= count:
        one_vector_tile(1, b + at, pair.out_features, VECTOR, low_rank, 0, pair.rank, y + 4 * at, 0)
        at += VECTOR
    out, factors = float32_array(y, count), float32_array(low_rank, pair.rank)
    for k in range(pair.rank if at < count else 0):
        row = int8_array(b + k * pair.out_features, count)
        for i in range(at, count):
            out[i] += factors[k] * row[i]
