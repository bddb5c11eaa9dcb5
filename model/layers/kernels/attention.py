"""Attention of a few neighbouring positions in the heads that share a key head.

Keys and values are float16. Keys lie in blocks of KEY_BLOCK positions, [positions / KEY_BLOCK,
head_dim, KEY_BLOCK]: a vector holds the same place of many keys, and so no sum of products has to
be added up across one.
"""

from __future__ import annotations

import numpy as np

from model.layers.kernels.int8_gemm import exp, tile_rows
from model.layers.kernels.intrinsics import float_of_bits, float_to_half, half_to_float
from model.layers.kernels.llvm_ir import HALF
from model.layers.kernels.memory import floats, shorts
from model.layers.kernels.options import compiled, fast
from model.layers.kernels.records import KEY_BLOCK, VECTOR
from model.layers.kernels.weighted_sum_ir import MAX_ROWS, VECTORS, WIDEST, mix_tiles

several, single = mix_tiles(HALF, MAX_ROWS, VECTORS), mix_tiles(HALF, MAX_ROWS, 1)
widest = mix_tiles(HALF, 1, WIDEST)


@fast
def to_float16(x, halves):
    """float32 `x` -> float16 `halves`, which may be strided."""
    for i in range(len(x)):
        halves[i] = float_to_half(x[i])


@fast
def rotate(x, cos, sin):
    """Rotary embedding of `x`, float32 [head_dim], in place."""
    half = len(x) // 2
    for i in range(half):
        low, high = x[i], x[i + half]
        x[i] = low * cos[i] - high * sin[i]
        x[i + half] = high * cos[i + half] + low * sin[i + half]


@compiled
def mix(rows, matrix, row_step, vector_step, vectors, weights, weight_step, count, out, out_step):
    """out += weights matrix, for up to MAX_ROWS rows and any number of vectors.

    See `mix_tiles`.
    """
    at = 0
    while rows == 1 and at + WIDEST <= vectors:
        widest(1, matrix + at * vector_step, row_step, vector_step, weights, weight_step, count,
               out + 4 * VECTOR * at, out_step)  # fmt: skip
        at += WIDEST
    while at + VECTORS <= vectors:
        several(rows, matrix + at * vector_step, row_step, vector_step, weights, weight_step, count,
                out + 4 * VECTOR * at, out_step)  # fmt: skip
        at += VECTORS
    while at < vectors:
        single(rows, matrix + at * vector_step, row_step, vector_step, weights, weight_step, count,
               out + 4 * VECTOR * at, out_step)  # fmt: skip
        at += 1


@compiled
def mix_values(rows, values, size, weights, weight_step, count, out):
    """out += weights values, for float16 values [count, size] and float32 `out` [rows, size]."""
    vectors = size // VECTOR
    mix(rows, values, 2 * size, 2 * VECTOR, vectors, weights, weight_step, count, out, 4 * size)
    even = vectors * VECTOR
    for r in range(rows if even < size else 0):
        y, factors = floats(out + 4 * r * size, size), floats(weights + r * weight_step, count)
        for k in range(count):
            row = shorts(values + 2 * k * size, size)
            for i in range(even, size):
                y[i] += factors[k] * half_to_float(row[i])


@compiled
def attend_heads(q, heads, keys, values, length, out):
    """out = softmax(q K^T / sqrt(size)) V, for float32 arrays `q` and `out` [queries, size].

    `heads` queries belong to each of the last positions, up to `length`, and look no further.
    `keys` and `values` are addresses.
    """
    queries, size = q.shape
    blocks = (length + KEY_BLOCK - 1) // KEY_BLOCK
    weights = np.zeros((queries, blocks * KEY_BLOCK), np.float32)
    step, wide = 4 * size, 4 * blocks * KEY_BLOCK
    factor, first = np.float32(1) / np.sqrt(np.float32(size)), length - queries // heads + 1
    at = 0
    while at < queries:
        count = tile_rows(queries - at, MAX_ROWS)
        mine = weights.ctypes.data + at * wide
        mix(count, keys, 2 * KEY_BLOCK, 2 * KEY_BLOCK * size, blocks, q.ctypes.data + at * step,
            step, size, mine, wide)  # fmt: skip
        for query in range(at, at + count):
            seen = first + query // heads
            softmax_inplace(weights[query, :seen], factor)
            weights[query, seen:length] = 0
        mix_values(count, values, size, mine, wide, length, out.ctypes.data + at * step)
        at += count


@compiled
def sortable_bits(bits):
    """The bits of a float as an integer that compares as the float does; and back."""
    return bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


@fast
def softmax_inplace(scores, factor):
    """softmax(factor * scores), in place."""
    bits, most = scores.view(np.int32), np.int32(-(2**31))
    for p in range(len(scores)):
        most = max(most, sortable_bits(bits[p]))
    highest, total = float_of_bits(sortable_bits(most)), np.float32(0)
    for p in range(len(scores)):
        scores[p] = exp((scores[p] - highest) * factor)
        total += scores[p]
    share = np.float32(1) / total
    for p in range(len(scores)):
        scores[p] *= share
