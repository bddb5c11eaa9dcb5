"""Products of int8 weights with activations in 16 bits, summed exactly in int32.

An activation row is quantised to int16 with one scale of its own, so small that no sum can leave
the int32 range whatever the weights are. Sums of integers do not depend on their order: a row's
result is the same alone and in any batch, with any number of threads.
"""

from __future__ import annotations

import numpy as np

from model.layers.kernels.atoms import float_of_bits
from model.layers.kernels.dot import dot_tile
from model.layers.kernels.layout import BLOCK, NEIGHBOURS
from model.layers.kernels.memory import bytes_at, floats, grid
from model.layers.kernels.options import compiled, fast

MOST = 32767.0
MOST_SUM = (2**31 - 1) / 127  # of the magnitudes of one row, times the largest weight
CHUNK_BYTES = 32 * 1024  # of weights: some microseconds of work

MOST_ROWS = 6  # in a tile: its sums fill the registers
MOST_ROWS_OF_TWO = 3  # in a tile of two blocks
LARGE = 2048  # columns, from which on it pays to read two blocks at once
tile_1, tile_2, tile_3 = dot_tile(1, 8), dot_tile(2, 4), dot_tile(3, 4)
tile_4, tile_5, tile_6 = dot_tile(4, 4), dot_tile(5, 2), dot_tile(6, 2)
two_1, two_2, two_3 = dot_tile(1, 4, 2), dot_tile(2, 2, 2), dot_tile(3, 2, 2)


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
def read_row(linear, row, x):
    """A row of the weights -> float32 `x`: the layer as an embedding."""
    begin = linear.weight + row // BLOCK * BLOCK * linear.ins + row % BLOCK * NEIGHBOURS
    scale = floats(linear.scale, linear.outs)[row]
    weights = bytes_at(begin, BLOCK * linear.ins)
    for i in range(len(x)):
        x[i] = weights[i // NEIGHBOURS * NEIGHBOURS * BLOCK + i % NEIGHBOURS] * scale


@compiled
def chunk_rows(ins):
    """Weight rows in a chunk of a product: whole blocks."""
    return max(2 * BLOCK if ins >= LARGE else BLOCK, CHUNK_BYTES // ins // BLOCK * BLOCK)


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
    sums = np.empty((MOST_ROWS, BLOCK), np.int32)
    j, end = chunk * size, min((chunk + 1) * size, linear.outs)
    while j < end:
        weights, bias = linear.weight + j * linear.ins, floats(linear.bias + 4 * j, end - j)
        if rows <= MOST_ROWS_OF_TWO and linear.ins >= LARGE and j + BLOCK < end:
            # With few rows it is the memory that counts, and it gives more read at two places.
            multiply_two(rows, weights, values, 2 * linear.ins, linear.ins, sums.ctypes.data)
            put(sums, row_scale, scale[j:], bias, y[:, j : j + BLOCK])
            j += BLOCK
            put(sums[rows:], row_scale, scale[j:], bias[BLOCK:], y[:, j : j + BLOCK])
        else:
            multiply_block(weights, values, linear.ins, row_scale, scale[j:], bias, sums,
                           y[:, j : j + BLOCK])  # fmt: skip
        j += BLOCK


@compiled
def multiply_block(weights, values, ins, row_scale, scale, bias, sums, y):
    """BLOCK output columns, y [rows, BLOCK], from the block of weights at `weights`.

    `sums` is room for int32 [MOST_ROWS, BLOCK].
    """
    row, rows = 0, len(row_scale)
    while row < rows:
        tiles = (rows - row + MOST_ROWS - 1) // MOST_ROWS
        count = (rows - row + tiles - 1) // tiles
        multiply_tile(count, weights, values + 2 * ins * row, 2 * ins, ins, sums.ctypes.data)
        put(sums, row_scale[row : row + count], scale, bias, y[row:])
        row += count


@compiled
def put(sums, row_scale, scale, bias, y):
    """The sums of a block, int32 [rows, BLOCK], scaled and with the bias -> `y` [rows, BLOCK]."""
    for r in range(len(row_scale)):
        for j in range(BLOCK):
            y[r, j] = sums[r, j] * (scale[j] * row_scale[r]) + bias[j]


@compiled
def multiply_two(rows, weights, values, stride, ins, sums):
    """The sums of so many rows and two blocks: see `dot_tile`."""
    if rows == 1:
        two_1(weights, values, stride, ins, sums)
    elif rows == 2:
        two_2(weights, values, stride, ins, sums)
    else:
        two_3(weights, values, stride, ins, sums)


@compiled
def multiply_tile(rows, weights, values, stride, ins, sums):
    """The sums of so many rows: see `dot_tile`."""
    if rows == 1:
        tile_1(weights, values, stride, ins, sums)
    elif rows == 2:
        tile_2(weights, values, stride, ins, sums)
    elif rows == 3:
        tile_3(weights, values, stride, ins, sums)
    elif rows == 4:
        tile_4(weights, values, stride, ins, sums)
    elif rows == 5:
        tile_5(weights, values, stride, ins, sums)
    else:
        tile_6(weights, values, stride, ins, sums)


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
