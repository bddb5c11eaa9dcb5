"""Writes the LLVM code that sums the rows of a small matrix, weighted in float32: keys, values and
adapters.

Converted numbers are never stored, and sums stay in registers. They are made row of the matrix by
row; so the result of a row of weights depends on that row alone, and not on how many others are
computed with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from llvmlite import ir

from model.layers.kernels.llvm_ir import (
    AVX512,
    FLOAT,
    HOST_ISA,
    I32,
    broadcast,
    cases,
    int64,
    ir_function,
    load,
    loop,
    multiply_add,
    offset_address,
    prefetch,
    store,
)
from model.layers.kernels.records import VECTOR

PREFETCH_BYTES = 2048  # of a matrix, fetched before they are needed
# Rows of weights, and vectors of the matrix, whose sums fill the registers.
MAX_ROWS = 6
TILE_VECTORS = 4 if HOST_ISA is AVX512 else 1
SINGLE_ROW_VECTORS = 8 if HOST_ISA is AVX512 else 4  # for a single row of weights
FLOATS = ir.VectorType(FLOAT, VECTOR)


@dataclass(frozen=True)
class WeightedSumTile:
    """The sums of some rows of weights in some vectors of numbers of a `kind`, a float or an
    integer, each sum made in `parts`."""

    kind: ir.Type
    rows: int
    vectors: int
    parts: int = 1

    def write(self, builder: Any, args: Sequence[Any]) -> None:
        """Writes the code of `weighted_sum_tiles` for as many rows as this tile has."""
        matrix, row_step, vector_step, weights, weight_step, count, out, out_step = args
        outputs = [
            offset_address(
                builder, builder.add(out, builder.mul(out_step, int64(row))), 4 * VECTOR * at
            )
            for row in range(self.rows)
            for at in range(self.vectors)
        ]
        weight_rows = [builder.add(weights, builder.mul(weight_step, int64(row)))
                       for row in range(self.rows)]  # fmt: skip
        columns = [builder.add(matrix, builder.mul(vector_step, int64(at)))
                   for at in range(self.vectors)]  # fmt: skip

        def turn(k: Any, totals: list[Any]) -> list[Any]:
            sums: list[Any] = []
            for part in range(self.parts):
                row = builder.add(k, int64(part))
                part_totals = totals[len(sums) : len(sums) + len(outputs)]
                sums += self._add_row(builder, columns, row, row_step, weight_rows, part_totals)
            return sums

        totals = [load(builder, output, FLOATS) for output in outputs]
        totals += [ir.Constant(FLOATS, None)] * (len(outputs) * (self.parts - 1))
        sums = loop(builder, count, self.parts, totals, turn)
        while len(sums) > len(outputs):
            half = len(sums) // 2
            sums = [builder.fadd(a, b) for a, b in zip(sums[:half], sums[half:], strict=True)]
        for total, output in zip(sums, outputs, strict=True):
            store(builder, total, output)

    def _add_row(
        self,
        builder: Any,
        columns: Sequence[Any],
        row: Any,
        row_step: Any,
        weight_rows: Sequence[Any],
        totals: Sequence[Any],
    ) -> list[Any]:
        """`totals` and one row of the matrix: for each row of weights its vectors."""
        row_offset, weight_offset = builder.mul(row, row_step), builder.shl(row, int64(2))
        vectors = []
        for column in columns:
            address = builder.add(column, row_offset)
            prefetch(builder, offset_address(builder, address, PREFETCH_BYTES))
            vectors.append(self._load_floats(builder, address))
        sums, previous = [], iter(totals)
        for weight_row in weight_rows:
            weight = load(builder, builder.add(weight_row, weight_offset), FLOAT)
            factor = broadcast(builder, weight, VECTOR)
            sums += [multiply_add(builder, factor, vector, next(previous)) for vector in vectors]
        return sums

    def _load_floats(self, builder: Any, address: Any) -> Any:
        numbers = load(builder, address, ir.VectorType(self.kind, VECTOR))
        if isinstance(self.kind, ir.IntType):
            return builder.sitofp(builder.sext(numbers, ir.VectorType(I32, VECTOR)), FLOATS)
        return builder.fpext(numbers, FLOATS)


def weighted_sum_tiles(
    kind: ir.Type, max_rows: int, vectors: int, parts: int = 1
) -> Callable[..., None]:
    """A function that adds weighted rows of a matrix to 1 to `max_rows` rows.

    It is called as `tiles(rows, matrix, row_step, vector_step, weights, weight_step, count, out,
    out_step)` with addresses and steps in bytes. The matrix has `count` rows of `vectors` vectors
    of VECTOR numbers of the `kind`; `weights` are float32 [rows, count], `out` float32 [rows,
    vectors * VECTOR]. `count` is a positive multiple of `parts`.
    """

    def write(builder: Any, args: Sequence[Any]) -> None:
        rows, *others = args
        tiles = [WeightedSumTile(kind, count, vectors, parts) for count in range(1, max_rows + 1)]
        cases(builder, rows, {t.rows: partial(t.write, builder, others) for t in tiles})

    return ir_function(write)
