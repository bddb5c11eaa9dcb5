"""Products of int8 weights with activations in 16 bits, summed exactly in int32.

An activation row is quantised to int16 with one scale of its own, so small that no sum can leave
the int32 range whatever the weights are. Sums of integers do not depend on their order: a row's
result is the same alone and in any batch, with any number of threads.
"""

from __future__ import annotations

import numpy as np

from model.layers.kernels.int8_gemm_ir import gemm_tiles
from model.layers.kernels.intrinsics import (
    bits_to_float32,
    compiled,
    compiled_fast,
    float32_array,
    int8_array,
)
from model.layers.kernels.llvm_ir import AVX512, HOST_ISA
from model.layers.kernels.records import ADJACENT_COLUMNS, BLOCK_ROWS, ROW_PADDING

INT16_MAX = 32767.0
MAX_SUM = (2**31 - 1) / 127  # of the magnitudes of one row, times the largest weight
CHUNK_BYTES = 32 * 1024  # of weights: some microseconds of work

HAS_AVX512 = HOST_ISA is AVX512
# In a tile of one block, and in one of two: their sums fill the registers.
MAX_ROWS, MAX_ROWS_TWO_BLOCKS = (12, 12) if HAS_AVX512 else (6, 3)
TWO_BLOCK_COLUMNS = 2048  # from so many columns on it pays to read at two places at once
one_block_tiles = gemm_tiles(MAX_ROWS, 1, HOST_ISA)
two_block_tiles = gemm_tiles(MAX_ROWS_TWO_BLOCKS, 2, HOST_ISA)


@compiled_fast
def peak_and_sum(x):
    """The largest magnitude in `x`, and the sum of all magnitudes."""
    # Floats without a sign are in the order of their bits, and integers are compared by the vector.
    bits, peak, total = x.view(np.int32), np.int32(0), np.float32(0)
    for i in range(len(x)):
        peak = max(peak, bits[i] & np.int32(0x7FFFFFFF))
        total += abs(x[i])
    return bits_to_float32(peak), total


@compiled
def quantize(x, values):
    """float32 `x` -> int16 `values`, padded with zeros. Returns the scale."""
    peak, total = peak_and_sum(x)
    values[len(x) :] = 0
    # A row with a NaN or an inf becomes NaN as a whole, and not something plausible.
    if not total < np.float32(np.inf):
        values[: len(x)] = 0
        return np.float32(np.nan)
    if peak == 0:
        values[: len(x)] = 0
        return np.float32(0)
    # Rounding adds half a unit to each magnitude at the most.
    inverse = min(np.float32(INT16_MAX) / peak, np.float32(MAX_SUM - len(x)) / total)
    for i in range(len(x)):
        values[i] = np.int16(np.rint(x[i] * inverse))
    return np.float32(1) / inverse


@compiled
def embed(linear, row, x):
    """A row of the weights -> float32 `x`: the layer as an embedding."""
    begin = linear.weight + row // BLOCK_ROWS * BLOCK_ROWS * linear.in_features
    begin += row % BLOCK_ROWS * ADJACENT_COLUMNS
    scale = float32_array(linear.scale, linear.out_features)[row]
    weights = int8_array(begin, BLOCK_ROWS * linear.in_features)
    for i in range(len(x)):
        group = i // ADJACENT_COLUMNS * ADJACENT_COLUMNS * BLOCK_ROWS
        x[i] = weights[group + i % ADJACENT_COLUMNS] * scale


@compiled
def chunk_rows(in_features):
    """Weight rows in a chunk of a product: whole pairs of blocks."""
    return max(ROW_PADDING, CHUNK_BYTES // in_features // ROW_PADDING * ROW_PADDING)


@compiled
def count_chunks(in_features, out_features):
    """Number of chunks of a product."""
    rows = chunk_rows(in_features)
    return (out_features + rows - 1) // rows


@compiled
def multiply(linear, chunk, rows, values, scales, output, stride):
    """One chunk of output columns, for all `rows`: output = values weights^T, scaled, plus bias.

    `values` is int16 [rows, in_features], `scales` float32 [rows], `output` float32 [rows, stride],
    all addresses; `linear` a LINEAR record.
    """
    size, two_blocks = chunk_rows(linear.in_features), use_two_blocks(rows, linear.in_features)
    for j in range(chunk * size, min((chunk + 1) * size, linear.out_features), ROW_PADDING):
        if two_blocks:
            multiply_blocks(linear, j, True, rows, values, scales, output, stride)
        else:
            multiply_blocks(linear, j, False, rows, values, scales, output, stride)
            multiply_blocks(linear, j + BLOCK_ROWS, False, rows, values, scales, output, stride)


@compiled
def use_two_blocks(rows, in_features):
    """Whether to multiply two blocks of weights at once."""
    if HAS_AVX512:  # with many rows arithmetic is the bound, and loads of activations are saved
        return rows > MAX_ROWS
    # With few rows memory is the bound, and it gives more when it is read at two places.
    return rows <= MAX_ROWS_TWO_BLOCKS and in_features >= TWO_BLOCK_COLUMNS


@compiled
def multiply_blocks(linear, j, two_blocks, rows, values, scales, output, stride):
    """A block of output columns, from `j` on, or two of them: see `multiply`."""
    columns = linear.in_features
    weights, scale, bias = linear.weight + j * columns, linear.scale + 4 * j, linear.bias + 4 * j
    row, max_rows = 0, MAX_ROWS_TWO_BLOCKS if two_blocks else MAX_ROWS
    while row < rows:
        count = tile_rows(rows - row, max_rows)
        row_values, row_scales = values + 2 * row * columns, scales + 4 * row
        out = output + 4 * (row * stride + j)
        if two_blocks:
            two_block_tiles(count, weights, columns, row_values, row_scales, scale, bias, out,
                            4 * stride)  # fmt: skip
        else:
            one_block_tiles(count, weights, columns, row_values, row_scales, scale, bias, out,
                            4 * stride)  # fmt: skip
        row += count


@compiled
def tile_rows(rows, max_rows):
    """How many of the remaining `rows` the next tile takes: tiles are as equal as possible."""
    tiles = (rows + max_rows - 1) // max_rows
    return (rows + tiles - 1) // tiles


@compiled
def exp(x):
    """e^x to about 2e-7 relative: 2^n times a polynomial for the remainder (Cephes' expf).

    Unlike the C library's it can be computed for many numbers at once.
    """
    x = min(max(x, np.float32(-87.3)), np.float32(88.3))
    n = np.rint(x * np.float32(1.44269504))
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1)
    return p * bits_to_float32(np.int32((np.int32(n) + np.int32(127)) << np.int32(23)))
