"""Sums of the rows of a small matrix, weighted in float32: keys, values and adapters.

What is converted on the way is never stored, and sums stay in registers. They are made row of the
matrix by row; so what a row of weights gives depends on nothing but that row: not on how many
others are computed with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from llvmlite import ir

from model.layers.kernels.llvm_ir import (
    FLOAT,
    HALF,
    I32,
    UNIT,
    WIDE,
    broadcast,
    cases,
    instructions,
    integer,
    load,
    loop,
    multiply_add,
    offset_address,
    prefetch,
    store,
)
from model.layers.kernels.records import VECTOR

AHEAD = 2048  # bytes of a matrix, asked of the memory before they are needed
# Rows of weights, and vectors of the matrix, whose sums fill the registers.
MAX_ROWS = 6
VECTORS = 4 if UNIT is WIDE else 1
WIDEST = 8 if UNIT is WIDE else 4  # vectors for a single row
FLOATS = ir.VectorType(FLOAT, VECTOR)


@dataclass(frozen=True)
class WeightedSumTile:
    """The sums of some rows of weights in some vectors of numbers of a `kind`, HALF or I8, each
    made in `parts`."""

    kind: ir.Type
    rows: int
    vectors: int
    parts: int = 1

    def mix(self, builder: Any, args: Sequence[Any]) -> None:
        """The instructions of `mix_tiles`, for as many rows as this tile has."""
        matrix, row_step, vector_step, weights, weight_step, count, out, out_step = args
        places = [
            offset_address(
                builder, builder.add(out, builder.mul(out_step, integer(row))), 4 * VECTOR * at
            )
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

        totals = [load(builder, place, FLOATS) for place in places]
        totals += [ir.Constant(FLOATS, None)] * (len(places) * (self.parts - 1))
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
            prefetch(builder, offset_address(builder, address, AHEAD))
            vectors.append(self._load(builder, address))
        added, before = [], iter(totals)
        for first in firsts:
            weight = broadcast(builder, load(builder, builder.add(first, place), FLOAT), VECTOR)
            added += [multiply_add(builder, weight, vector, next(before)) for vector in vectors]
        return added

    def _load(self, builder: Any, address: Any) -> Any:
        numbers = load(builder, address, ir.VectorType(self.kind, VECTOR))
        if self.kind is HALF:
            return builder.fpext(numbers, FLOATS)
        return builder.sitofp(builder.sext(numbers, ir.VectorType(I32, VECTOR)), FLOATS)


def mix_tiles(kind: ir.Type, most_rows: int, vectors: int, parts: int = 1) -> Callable[..., None]:
    """A function that adds weighted rows of a matrix to 1 to `most_rows` rows.

    It is called as `tiles(rows, matrix, row_step, vector_step, weights, weight_step, count, out,
    out_step)` with addresses and steps in bytes. The matrix has `count` rows of `vectors` vectors
    of VECTOR numbers of the `kind`; `weights` are float32 [rows, count], `out` float32 [rows,
    vectors * VECTOR]. `count` is a positive multiple of `parts`.
    """

    def write(builder: Any, args: Sequence[Any]) -> None:
        rows, *others = args
        tiles = [WeightedSumTile(kind, count, vectors, parts) for count in range(1, most_rows + 1)]
        cases(builder, rows, {t.rows: partial(t.mix, builder, others) for t in tiles})

    return instructions(write)
