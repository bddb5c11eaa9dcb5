"""Products of int8 weights with activations in 16 bits, summed exactly in int32.

An activation row is quantised to int16 with one scale of its own, so small that no sum can leave
the int32 range whatever the weights are. Sums of integers do not depend on their order: a row's
result is the same alone and in any batch, with any number of threads.
"""

from __future__ import annotations

import numpy as np

from model.layers.kernels.atoms import float_of_bits
from model.layers.kernels.dot import dot_tile
from model.layers.kernels.layout import BLOCK, LANES
from model.layers.kernels.memory import floats, grid
from model.layers.kernels.options import compiled, fast

MOST = 32767.0
MOST_SUM = (2**31 - 1) / 127  # of the magnitudes of one row, times the largest weight
CHUNK_BYTES = 32 * 1024  # of weights: some microseconds of work

tile_8x1, tile_4x2, tile_2x4 = dot_tile(8, 1), dot_tile(4, 2), dot_tile(2, 4)


@fast
def sizes(x):
    """The largest magnitude in `x`, and the sum of all."""
    peak, total = np.float32(0), np.float32(0)
    for i in range(len(x)):
        size = abs(x[i])
        total += size
        peak = max(peak, size)
    return peak, total


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
    inverse = min(np.float32(MOST) / peak, np.float32(MOST_SUM - len(x)) / total)
    for i in range(len(x)):
        values[i] = np.int16(np.rint(x[i] * inverse))
    return np.float32(1) / inverse


@compiled
def chunk_rows(ins):
    """Weight rows in a chunk of a product: whole blocks."""
    return max(BLOCK, CHUNK_BYTES // ins // BLOCK * BLOCK)


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
    size = chunk_rows(linear.ins)
    scale, row_scale = floats(linear.scale, linear.outs), floats(scales, rows)
    y = grid(output, rows, stride)
    for j in range(chunk * size, min((chunk + 1) * size, linear.outs), BLOCK):
        part = y[:, j : j + BLOCK]
        multiply_block(linear.weight + j * linear.ins, values, linear.ins, row_scale,
                       scale[j : j + BLOCK], part)  # fmt: skip
        bias = floats(linear.bias + 4 * j, BLOCK)
        for r in range(rows):
            for a in range(BLOCK):
                part[r, a] += bias[a]


@compiled
def multiply_block(weights, values, ins, row_scale, scale, y):
    """BLOCK output columns, y [rows, BLOCK], from the block of weights at `weights`."""
    sums = np.empty(BLOCK, np.int32)
    out, stride, row, rows = sums.ctypes.data, 2 * ins, 0, len(row_scale)
    while rows - row >= 4:
        for j in range(0, BLOCK, 2):
            tile_2x4(weights + LANES * j, values + row * stride, stride, ins, out)
            put(sums, 2, 4, row_scale[row:], scale[j:], y[row:, j:])
        row += 4
    if rows - row >= 2:
        for j in range(0, BLOCK, 4):
            tile_4x2(weights + LANES * j, values + row * stride, stride, ins, out)
            put(sums, 4, 2, row_scale[row:], scale[j:], y[row:, j:])
        row += 2
    if rows > row:
        tile_8x1(weights, values + row * stride, stride, ins, out)
        put(sums, 8, 1, row_scale[row:], scale, y[row:])


@compiled
def put(sums, columns, rows, row_scale, scale, y):
    """A tile's sums, int32 [columns, rows], scaled into `y` [rows, columns]."""
    for j in range(columns):
        for r in range(rows):
            y[r, j] = sums[j * rows + r] * (scale[j] * row_scale[r])


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
