"""Products of float16 matrices with float32 vectors: keys, values and adapters.

What is converted on the way is never stored, and sums stay in registers. The order in which a sum
is made depends on its own length alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from model.layers.kernels.atoms import half_to_float
from model.layers.kernels.memory import floats, shorts
from model.layers.kernels.options import compiled
from model.layers.kernels.vectors import (
    FLOAT,
    HALF,
    LINE,
    further,
    instructions,
    integer,
    load,
    loop,
    multiply_add,
    prefetch,
    repeated,
    shuffle,
    store,
)

LANES = 8  # numbers in a vector
AHEAD = 2048  # bytes of a matrix, asked of the memory before they are needed
WIDE = 8  # vectors of sums that stay in registers
FLOATS, HALVES = ir.VectorType(FLOAT, LANES), ir.VectorType(HALF, LANES)
ZERO = ir.Constant(FLOATS, None)


def _load_halves(builder: Any, address: Any) -> Any:
    return builder.fpext(load(builder, address, HALVES), FLOATS)


def _fold(builder: Any, a: Any, b: Any) -> Any:
    """Neighbours of `a`, then those of `b`, added: half as many sums of twice as much."""
    even, odd = (shuffle(builder, a, b, list(range(first, 2 * LANES, 2))) for first in (0, 1))
    return builder.fadd(even, odd)


def _dot_tile(count: int) -> Callable[..., None]:
    def write(builder: Any, args: Sequence[Any]) -> None:
        rows, stride, x, columns, out = args

        def turn(column: Any, totals: list[Any]) -> list[Any]:
            values = load(builder, builder.add(x, builder.shl(column, integer(2))), FLOATS)
            first = builder.add(rows, builder.shl(column, integer(1)))
            addresses = [builder.add(first, builder.mul(stride, integer(r))) for r in range(count)]
            # The rows behind these, as many bytes in each turn as it reads.
            next_ = builder.add(rows, builder.mul(column, integer(2 * count)))
            for at in range(0, 2 * LANES * count, LINE):
                prefetch(builder, further(builder, next_, AHEAD + at))
            return [
                multiply_add(builder, _load_halves(builder, address), values, total)
                for address, total in zip(addresses, totals, strict=True)
            ]

        sums = loop(builder, columns, LANES, [ZERO] * count, turn)
        sums += [ZERO] * (LANES - count)
        while len(sums) > 1:
            sums = [_fold(builder, a, b) for a, b in zip(sums[::2], sums[1::2], strict=True)]
        for row in range(count):
            total = builder.extract_element(sums[0], integer(row))
            store(builder, total, further(builder, out, 4 * row))

    return instructions(write)


def _mix_tile(vectors: int) -> Callable[..., None]:
    def write(builder: Any, args: Sequence[Any]) -> None:
        rows, stride, weights, count, out = args
        places = [further(builder, out, 4 * LANES * at) for at in range(vectors)]

        def turn(row: Any, totals: list[Any]) -> list[Any]:
            weight = load(builder, builder.add(weights, builder.shl(row, integer(2))), FLOAT)
            factor = repeated(builder, weight, LANES)
            first = builder.add(rows, builder.mul(stride, row))
            for at in range(0, 2 * LANES * vectors, LINE):
                prefetch(builder, further(builder, first, AHEAD + at))
            return [
                multiply_add(
                    builder, _load_halves(builder, further(builder, first, 2 * LANES * at)),
                    factor, total,
                )
                for at, total in enumerate(totals)
            ]  # fmt: skip

        before = [load(builder, place, FLOATS) for place in places]
        for vector, place in zip(loop(builder, count, 1, before, turn), places, strict=True):
            store(builder, vector, place)

    return instructions(write)


# (rows, stride, x, columns, out): out, float32 [1 or LANES] = rows x, for float16 rows that are
# `stride` bytes apart, and float32 x [columns]; `columns` a positive multiple of LANES.
_dot, _dots = _dot_tile(1), _dot_tile(LANES)

# (rows, stride, weights, count, out): out, float32 [LANES or WIDE * LANES] += weights rows, for
# float32 weights [count] and float16 rows that are `stride` bytes apart; `count` positive.
_mix, _mixes = _mix_tile(1), _mix_tile(WIDE)


@compiled
def dots(rows, stride, count, x, columns, out):
    """out = rows x: float16 [count, columns], `stride` bytes apart, with float32 [columns].

    All are addresses.
    """
    even, row = columns // LANES * LANES, 0
    while row + LANES <= count and even:
        _dots(rows + row * stride, stride, x, even, out + 4 * row)
        row += LANES
    while row < count and even:
        _dot(rows + row * stride, stride, x, even, out + 4 * row)
        row += 1
    if even == columns:
        return
    y, values = floats(out, count), floats(x, columns)
    for r in range(count):
        rest = shorts(rows + r * stride, columns)
        total = y[r] if even else np.float32(0)
        for i in range(even, columns):
            total += half_to_float(rest[i]) * values[i]
        y[r] = total


@compiled
def mix(rows, stride, weights, count, columns, out):
    """out += weights rows: float32 [count] with float16 [count, columns], `stride` bytes apart.

    All are addresses.
    """
    if count == 0:
        return
    column = 0
    while column + WIDE * LANES <= columns:
        _mixes(rows + 2 * column, stride, weights, count, out + 4 * column)
        column += WIDE * LANES
    while column + LANES <= columns:
        _mix(rows + 2 * column, stride, weights, count, out + 4 * column)
        column += LANES
    y, factors = floats(out, columns), floats(weights, count)
    for r in range(count if column < columns else 0):
        row = shorts(rows + r * stride, columns)
        for i in range(column, columns):
            y[i] += factors[r] * half_to_float(row[i])
