"""Attention of a few neighbouring positions in the heads that share a key head.

Keys and values are of the type `records.KV_DTYPE`. Keys are stored in blocks of KEY_BLOCK
positions, [positions / KEY_BLOCK, head_dim, KEY_BLOCK]: a vector holds the same element of many
keys, and so no sum of products has to be added up across one.
"""

from __future__ import annotations

import numpy as np

from model.layers.kernels.int8_gemm import exp, tile_rows
from model.layers.kernels.intrinsics import (
    bits_to_float32,
    compiled,
    compiled_fast,
    float16_to_float32,
    float32_array,
    float32_to_float16,
    int16_array,
)
from model.layers.kernels.llvm_ir import HALF
from model.layers.kernels.records import KEY_BLOCK, KV_BYTES, VECTOR
from model.layers.kernels.weighted_sum_ir import (
    MAX_ROWS,
    SINGLE_ROW_VECTORS,
    TILE_VECTORS,
    weighted_sum_tiles,
)

# How compiled code reads and writes KV_DTYPE. On the CPU numba has no float16: its bits are int16.
KV_IR_TYPE = HALF
kv_array, kv_to_float32, float32_to_kv = int16_array, float16_to_float32, float32_to_float16

many_vector_tiles = weighted_sum_tiles(KV_IR_TYPE, MAX_ROWS, TILE_VECTORS)
one_vector_tiles = weighted_sum_tiles(KV_IR_TYPE, MAX_ROWS, 1)
single_row_tile = weighted_sum_tiles(KV_IR_TYPE, 1, SINGLE_ROW_VECTORS)


@compiled_fast
def store_kv(x, stored):
    """float32 `x` -> `stored`, a `kv_array`, which may be strided."""
    for i in range(len(x)):
        stored[i] = float32_to_kv(x[i])


@compiled_fast
def rotate(x, cos, sin):
    """Rotary embedding of `x`, float32 [head_dim], in place."""
    half = len(x) // 2
    for i in range(half):
        low, high = x[i], x[i + half]
        x[i] = low * cos[i] - high * sin[i]
        x[i + half] = high * cos[i + half] + low * sin[i + half]


@compiled
def add_weighted_rows(
    rows, matrix, row_step, vector_step, vectors, weights, weight_step, count, out, out_step
):
    """out += weights matrix, for up to MAX_ROWS rows and any number of vectors.

    See `weighted_sum_tiles`.
    """
    at = 0
    while rows == 1 and at + SINGLE_ROW_VECTORS <= vectors:
        single_row_tile(1, matrix + at * vector_step, row_step, vector_step, weights, weight_step,
                        count, out + 4 * VECTOR * at, out_step)  # fmt: skip
        at += SINGLE_ROW_VECTORS
    while at + TILE_VECTORS <= vectors:
        many_vector_tiles(rows, matrix + at * vector_step, row_step, vector_step, weights,
                          weight_step, count, out + 4 * VECTOR * at, out_step)  # fmt: skip
        at += TILE_VECTORS
    while at < vectors:
        one_vector_tiles(rows, matrix + at * vector_step, row_step, vector_step, weights,
                         weight_step, count, out + 4 * VECTOR * at, out_step)  # fmt: skip
        at += 1


@compiled
def add_weighted_values(rows, values, size, weights, weight_step, count, out):
    """out += weights values, for stored values [count, size] and float32 `out` [rows, size]."""
    vectors = size // VECTOR
    add_weighted_rows(rows, values, KV_BYTES * size, KV_BYTES * VECTOR, vectors, weights,
                      weight_step, count, out, 4 * size)  # fmt: skip
    vectorized = vectors * VECTOR
    for r in range(rows if vectorized < size else 0):
        y = float32_array(out + 4 * r * size, size)
        factors = float32_array(weights + r * weight_step, count)
        for k in range(count):
            row = kv_array(values + KV_BYTES * k * size, size)
            for i in range(vectorized, size):
                y[i] += factors[k] * kv_to_float32(row[i])


@compiled
def attend_heads(q, heads, keys, values, length, out):
    """out = softmax(q K^T / sqrt(size)) V, for float32 arrays `q` and `out` [queries, size].

    `heads` queries belong to each of the last positions, up to `length`, and see no later position.
    `keys` and `values` are addresses.
    """
    queries, size = q.shape
    blocks = (length + KEY_BLOCK - 1) // KEY_BLOCK
    weights = np.zeros((queries, blocks * KEY_BLOCK), np.float32)
    query_step, weight_step = 4 * size, 4 * blocks * KEY_BLOCK
    factor, first = np.float32(1) / np.sqrt(np.float32(size)), length - queries // heads + 1
    at = 0
    while at < queries:
        count = tile_rows(queries - at, MAX_ROWS)
        tile_weights = weights.ctypes.data + at * weight_step
        add_weighted_rows(count, keys, KV_BYTES * KEY_BLOCK, KV_BYTES * KEY_BLOCK * size, blocks,
                          q.ctypes.data + at * query_step, query_step, size, tile_weights,
                          weight_step)  # fmt: skip
        for query in range(at, at + count):
            visible = first + query // heads
            softmax_inplace(weights[query, :visible], factor)
            weights[query, visible:length] = 0
        add_weighted_values(count, values, size, tile_weights, weight_step, length,
                            out.ctypes.data + at * query_step)  # fmt: skip
        at += count


@compiled
def sortable_bits(bits):
    """The bits of a float as an integer that compares as the float does; and back."""
    return bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


@compiled_fast
def softmax_inplace(scores, factor):
    """softmax(factor * scores), in place."""
    bits, peak = scores.view(np.int32), np.int32(-(2**31))
    for p in range(len(scores)):
        peak = max(peak, sortable_bits(bits[p]))
    highest, total = bits_to_float32(sortable_bits(peak)), np.float32(0)
    for p in range(len(scores)):
        scores[p] = exp((scores[p] - highest) * factor)
        total += scores[p]
    inverse = np.float32(1) / total
    for p in range(len(scores)):
        scores[p] *= inverse
