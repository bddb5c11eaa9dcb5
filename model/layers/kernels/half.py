"""Sums of the rows of float16 matrices, weighted in float32: keys, values and adapters.

What is converted on the way is never stored, and sums stay in registers. Everything here is the
same sum: out = weights matrix, row of the matrix by row. So what a row of weights gives depends on
nothing but that row: not on how many others are computed with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from model.layers.kernels.atoms import half_to_float
from model.layers.kernels.layout import HALVES
from model.layers.kernels.memory import floats, shorts
from model.layers.kernels.options import compiled
from model.layers.kernels.vectors import (
    FLOAT,
    HALF,
    UNIT,
    WIDE,
    cases,
    further,
    instructions,
    integer,
    load,
    loop,
    multiply_add,
    prefetch,
    repeated,
    store,
)

AHEAD = 2048  # bytes of a matrix, asked of the memory before they are needed
VECTOR = 2 * HALVES  # bytes of a vector of the matrix
# Rows of weights and vectors of the matrix whose sums fill the registers; vectors, if it is one row.
MOST_ROWS, VECTORS = (6, 4) if UNIT is WIDE else (3, 2)
WIDEST = 8 if UNIT is WIDE else 4
FLOATS16, HALVES16 = ir.VectorType(FLOAT, HALVES), ir.VectorType(HALF, HALVES)


@dataclass(frozen=True)
class Tile:
    """The sums of some rows of weights in some vectors, each made in `parts`."""

    rows: int
    vectors: int
    parts: int = 1

    def mix(self, builder: Any, args: Sequence[Any]) -> None:
        """The instructions of `mix_tiles`, for as many rows as this tile has."""
        matrix, row_step, vector_step, weights, weight_step, count, out, out_step = args
        places = [
            further(builder, builder.add(out, builder.mul(out_step, integer(row))), 2 * VECTOR * at)
            for row in range(self.rows)
            for at in range(self.vectors)
        ]
        firsts = [builder.add(weights, builder.mul(weight_step, integer(row)))
                  for row in range(self.rows)]  # fmt: skip
        begins = [builder.add(matrix, builder.mul(vector_step, integer(at)))
                  for at in range(self.vectors)]  # fmt: skip

        def turn(k: Any, totals: list[Any]) -> list[Any]:
            added: list[Any] = []
            for part in range(self.parts):
                row = builder.add(k, integer(part))
                mine = totals[len(added) : len(added) + len(places)]
                added += self._add(builder, begins, row, row_step, firsts, mine)
            return added

        totals = [load(builder, place, FLOATS16) for place in places]
        totals += [ir.Constant(FLOATS16, None)] * (len(places) * (self.parts - 1))
        sums = loop(builder, count, self.parts, totals, turn)
        while len(sums) > len(places):
            half = len(sums) // 2
            sums = [builder.fadd(a, b) for a, b in zip(sums[:half], sums[half:], strict=True)]
        for total, place in zip(sums, places, strict=True):
            store(builder, total, place)

    def _add(
        self,
        builder: Any,
        begins: Sequence[Any],
        row: Any,
        row_step: Any,
        firsts: Sequence[Any],
        totals: Sequence[Any],
    ) -> list[Any]:
        """`totals`, for each row of weights its vectors, and one row of the matrix."""
        offset, place = builder.mul(row, row_step), builder.shl(row, integer(2))
        vectors = []
        for begin in begins:
            address = builder.add(begin, offset)
            prefetch(builder, further(builder, address, AHEAD))
            vectors.append(builder.fpext(load(builder, address, HALVES16), FLOATS16))
        added, before = [], iter(totals)
        for first in firsts:
            weight = repeated(builder, load(builder, builder.add(first, place), FLOAT), HALVES)
            added += [multiply_add(builder, weight, vector, next(before)) for vector in vectors]
        return added


def mix_tiles(most_rows: int, vectors: int, parts: int = 1) -> Callable[..., None]:
    """A function that adds weighted rows of a matrix to 1 to `most_rows` rows.

    It is called as `tiles(rows, matrix, row_step, vector_step, weights, weight_step, count, out,
    out_step)` with addresses and steps in bytes. The matrix has `count` rows of `vectors` vectors
    of HALVES float16; `weights` are float32 [rows, count], `out` float32 [rows, vectors * HALVES].
    `count` is a positive multiple of `parts`.
    """

    def write(builder: Any, args: Sequence[Any]) -> None:
        rows, *others = args
        tiles = [Tile(count, vectors, parts) for count in range(1, most_rows + 1)]
        cases(builder, rows, {t.rows: lambda b, t=t: t.mix(b, others) for t in tiles})

    return instructions(write)


several, single = mix_tiles(MOST_ROWS, VECTORS), mix_tiles(MOST_ROWS, 1)
widest, in_parts = mix_tiles(1, WIDEST), mix_tiles(1, 1, parts=4)


@compiled
def mix(rows, matrix, row_step, vector_step, vectors, weights, weight_step, count, out, out_step):
    """out += weights matrix, for up to MOST_ROWS rows and any number of vectors: see `mix_tiles`."""
    at = 0
    while rows == 1 and at + WIDEST <= vectors:
        widest(1, matrix + at * vector_step, row_step, vector_step, weights, weight_step, count,
               out + 2 * VECTOR * at, out_step)  # fmt: skip
        at += WIDEST
    while at + VECTORS <= vectors:
        several(rows, matrix + at * vector_step, row_step, vector_step, weights, weight_step, count,
                out + 2 * VECTOR * at, out_step)  # fmt: skip
        at += VECTORS
    while at < vectors:
        single(rows, matrix + at * vector_step, row_step, vector_step, weights, weight_step, count,
               out + 2 * VECTOR * at, out_step)  # fmt: skip
        at += 1


@compiled
def mix_rows(rows, matrix, columns, row_step, weights, weight_step, count, out, out_step):
    """out += weights matrix, for float16 [count, columns] whose rows are `row_step` bytes apart."""
    if count == 0:
        return
    vectors = columns // HALVES
    mix(rows, matrix, row_step, VECTOR, vectors, weights, weight_step, count, out, out_step)
    even = vectors * HALVES
    for r in range(rows if even < columns else 0):
        y, factors = floats(out + r * out_step, columns), floats(weights + r * weight_step, count)
        for k in range(count):
            row = shorts(matrix + k * row_step, columns)
            for i in range(even, columns):
                y[i] += factors[k] * half_to_float(row[i])


@compiled
def mix_narrow(matrix, vectors, weights, count, out):
    """out = weights matrix: float32 [count] with float16 [count, vectors * HALVES].

    For matrices so narrow that a single sum would wait for itself: in several parts each.
    """
    even, step = count // 4 * 4, VECTOR * vectors
    floats(out, vectors * HALVES)[:] = 0
    for at in range(vectors):
        first, place = matrix + VECTOR * at, out + 2 * VECTOR * at
        if even:
            in_parts(1, first, step, VECTOR, weights, 0, even, place, 0)
        if even < count:
            single(1, first + even * step, step, VECTOR, weights + 4 * even, 0, count - even, place,
                   0)  # fmt: skip
