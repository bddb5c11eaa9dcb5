"""Products of int8 weights with activations in 16 bits, summed exactly in int32.

An activation row is quantised to int16 with one scale of its own, so small that no sum can leave
the int32 range whatever the weights are. Sums of integers do not depend on their order: a row's
result is the same alone and in any batch, with any number of threads.
"""

from __future__ import annotations

import numpy as np

from model.layers.kernels.int8_gemm_ir import product_tiles
from model.layers.kernels.intrinsics import float_of_bits
from model.layers.kernels.llvm_ir import UNIT, WIDE
from model.layers.kernels.memory import bytes_at, floats
from model.layers.kernels.options import compiled, fast
from model.layers.kernels.records import BLOCK, NEIGHBOURS, OUTPUTS

MOST = 32767.0
MAX_SUM = (2**31 - 1) / 127  # of the magnitudes of one row, times the largest weight
CHUNK_BYTES = 32 * 1024  # of weights: some microseconds of work

IS_WIDE = UNIT is WIDE
# In a tile of one block, and in one of two: their sums fill the registers.
MAX_ROWS, MAX_PAIRED_ROWS = (12, 12) if IS_WIDE else (6, 3)
LARGE = 2048  # columns, from which on it pays to read at two places at once
singles, pairs = product_tiles(MAX_ROWS, 1, UNIT), product_tiles(MAX_PAIRED_ROWS, 2, UNIT)


@fast
def sizes(x):
    """The largest magnitude in `x`, and the sum of all."""
    # Floats without a sign are in the order of their bits, and integers are compared by the vector.
    bits, peak, total = x.view(np.int32), np.int32(0), np.float32(0)
    for i in range(len(x)):
        peak = max(peak, bits[i] & np.int32(0x7FFFFFFF))
        total += abs(x[i])
    return float_of_bits(peak), total


@compiled
def quantize(x, values):
    """float32 `x` -> int16 `values`, the rest of which becomes 0. Returns the scale."""
    peak, total = sizes(x)
    values[len(x) :] = 0
    # A row with a NaN or an inf becomes NaN as a whole, and not something plausible.
    if not total < np.float32(np.inf):
        values[: len(x)] = 0
        return np.float32(np.nan)
    if peak == 0:
        values[: len(x)] = 0
        return np.float32(0)
    # Rounding adds half a unit to each magnitude at the most.
    inverse = min(np.float32(MOST) / peak, np.float32(MAX_SUM - len(x)) / total)
    for i in range(len(x)):
        values[i] = np.int16(np.rint(x[i] * inverse))
    return np.float32(1) / inverse


@compiled
def read_row(linear, row, x):
    """A row of the weights -> float32 `x`: the layer as an embedding."""
    begin = linear.weight + row // BLOCK * BLOCK * linear.ins + row % BLOCK * NEIGHBOURS
    scale = floats(linear.scale, linear.outs)[row]
    weights = bytes_at(begin, BLOCK * linear.ins)
    for i in range(len(x)):
        x[i] = weights[i // NEIGHBOURS * NEIGHBOURS * BLOCK + i % NEIGHBOURS] * scale


@compiled
def chunk_rows(ins):
    """Weight rows in a chunk of a product: whole pairs of blocks."""
    return max(OUTPUTS, CHUNK_BYTES // ins // OUTPUTS * OUTPUTS)


@compiled
def chunks(ins, outs):
    """Number of chunks of a product."""
    rows = chunk_rows(ins)
    return (outs + rows - 1) // rows


@compiled
def multiply(linear, chunk, rows, values, scales, output, stride):
    """One chunk of output columns, for all `rows`: output = values weights^T, scaled, plus bias.

    `values` is int16 [rows, ins], `scales` float32 [rows], `output` float32 [rows, stride], all
    addresses; `linear` a LINEAR record.
    """
    size, in_pairs = chunk_rows(linear.ins), use_two_blocks(rows, linear.ins)
    for j in range(chunk * size, min((chunk + 1) * size, linear.outs), OUTPUTS):
        if in_pairs:
            multiply_blocks(linear, j, True, rows, values, scales, output, stride)
        else:
            multiply_blocks(linear, j, False, rows, values, scales, output, stride)
            multiply_blocks(linear, j + BLOCK, False, rows, values, scales, output, stride)


@compiled
def use_two_blocks(rows, ins):
    """Whether to take two blocks of weights at once."""
    if IS_WIDE:  # with many rows it is arithmetic that counts, and loads of activations are saved
        return rows > MAX_ROWS
    # With few rows it is the memory, and it gives more read at two places.
    return rows <= MAX_PAIRED_ROWS and ins >= LARGE


@compiled
def multiply_blocks(linear, j, in_pairs, rows, values, scales, output, stride):
    """A block of output columns, from `j` on, or two of them: see `multiply`."""
    weights, scale, bias = linear.weight + j * linear.ins, linear.scale + 4 * j, linear.bias + 4 * j
    row, most = 0, MAX_PAIRED_ROWS if in_pairs else MAX_ROWS
    while row < rows:
        count = tile_rows(rows - row, most)
        mine, row_scales = values + 2 * row * linear.ins, scales + 4 * row
        out = output + 4 * (row * stride + j)
        if in_pairs:
            pairs(count, weights, linear.ins, mine, row_scales, scale, bias, out, 4 * stride)
        else:
            singles(count, weights, linear.ins, mine, row_scales, scale, bias, out, 4 * stride)
        row += count


@compiled
def tile_rows(rows, most):
    """Of so many rows those that the next tile takes: tiles as equal as may be."""
    tiles = (rows + most - 1) // most
    return (rows + tiles - 1) // tiles


@compiled
def exp(x):
    """e^x to about 2e-7 relative: 2^n times a polynomial for the rest (Cephes' expf).

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
    return p * float_of_bits(np.int32((np.int32(n) + np.int32(127)) << np.int32(23)))
