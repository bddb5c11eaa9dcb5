"""Products by the vector: blocks of int8 weights with rows of int16 activations.

Weights lie as int8 [out / BLOCK, in / NEIGHBOURS, BLOCK, NEIGHBOURS]. Computing BLOCK outputs reads
memory from front to back: with rows one behind another it was half as fast. And one instruction
multiplies the neighbours of a vector of outputs with the same activations, so that the sums of
different outputs never have to be told apart.

Whatever processor runs them gets its own: nothing but the width of a vector and the name of one
instruction is written for a kind of processor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from llvmlite import ir

from model.layers.kernels.llvm_ir import (
    FLOAT,
    I8,
    I16,
    I32,
    LINE,
    VectorISA,
    broadcast,
    cases,
    instructions,
    integer,
    load,
    loop,
    multiply_add,
    offset_address,
    prefetch,
    select,
    store,
)
from model.layers.kernels.records import BLOCK, COLUMNS, NEIGHBOURS

ENOUGH = 8  # sums that do not wait for one another, to keep the multipliers busy
UNROLLED = 32  # products in one turn of the loop, about


@dataclass(frozen=True)
class GemmTile:
    """The sums of some rows in some neighbouring blocks, which stay in registers."""

    unit: VectorISA
    rows: int
    blocks: int

    @property
    def halves(self) -> int:
        """Vectors in a block."""
        return BLOCK // self.unit.lanes

    @property
    def sums(self) -> int:
        return self.rows * self.blocks * self.halves

    @property
    def parts(self) -> int:
        """In how many parts each sum is made, as long as there are not enough of them."""
        return 1 << max(0, (ENOUGH // self.sums).bit_length() - 1)

    @property
    def unroll(self) -> int:
        """How many times NEIGHBOURS columns one turn of the loop takes: a power of two."""
        turns = 1 << max(1, (UNROLLED // self.sums).bit_length() - 1)
        return min(turns, COLUMNS // NEIGHBOURS)

    def multiply(self, builder: Any, args: Sequence[Any]) -> None:
        """The instructions of `product_tiles`, for as many rows as this tile has."""
        weights, columns, values, row_scales, scales, biases, out, stride = args
        totals = iter(self._add_up(builder, weights, columns, values))
        floats = ir.VectorType(FLOAT, self.unit.lanes)
        for row in range(self.rows):
            row_scale = load(builder, offset_address(builder, row_scales, 4 * row), FLOAT)
            factor = broadcast(builder, row_scale, self.unit.lanes)
            for at in range(0, 4 * self.blocks * BLOCK, 4 * self.unit.lanes):
                scale, bias = (load(builder, offset_address(builder, a, at), floats)
                               for a in (scales, biases))  # fmt: skip
                total = builder.sitofp(next(totals), floats)
                y = multiply_add(builder, total, builder.fmul(scale, factor), bias)
                store(builder, y, offset_address(builder, out, at))
            out = builder.add(out, stride)

    def _add_up(self, builder: Any, weights: Any, columns: Any, values: Any) -> list[Any]:
        """int32 vectors: for each row the outputs of all blocks."""
        size = builder.mul(columns, integer(BLOCK))
        begins = [builder.add(weights, builder.mul(size, integer(at)))
                  for at in range(self.blocks)]  # fmt: skip
        stride = builder.shl(columns, integer(1))

        def turn(column: Any, totals: list[Any]) -> list[Any]:
            offset = builder.mul(column, integer(BLOCK))
            groups = [builder.add(begin, offset) for begin in begins]
            for group in groups:
                for at in range(0, self.unroll * BLOCK * NEIGHBOURS, LINE):
                    prefetch(builder, offset_address(builder, group, self.unit.ahead + at))
            first = builder.add(values, builder.shl(column, integer(1)))
            added = list(totals)
            for step in range(self.unroll):
                part = slice(step % self.parts, None, self.parts)
                added[part] = self._add_products(builder, groups, first, stride, added[part])
                groups = [offset_address(builder, group, BLOCK * NEIGHBOURS) for group in groups]
                first = offset_address(builder, first, 2 * NEIGHBOURS)
            return added

        zero = ir.Constant(ir.VectorType(I32, self.unit.lanes), None)
        sums = loop(builder, columns, NEIGHBOURS * self.unroll, [zero] * self.sums * self.parts,
                    turn)  # fmt: skip
        while len(sums) > self.sums:  # integers: in whatever order
            sums = [builder.add(a, b) for a, b in zip(sums[::2], sums[1::2], strict=True)]
        return sums

    def _add_products(
        self, builder: Any, groups: Sequence[Any], first: Any, stride: Any, totals: Sequence[Any]
    ) -> list[Any]:
        """`totals` and the products of a group of weights of each block."""
        lanes, added = self.unit.lanes, iter(totals)
        int8s, int16s = (ir.VectorType(kind, lanes * NEIGHBOURS) for kind in (I8, I16))
        weights = [
            builder.sext(load(builder, offset_address(builder, group, at), int8s), int16s)
            for group in groups
            for at in range(0, BLOCK * NEIGHBOURS, lanes * NEIGHBOURS)
        ]
        sums = []
        for row in range(self.rows):
            address = builder.add(first, builder.mul(stride, integer(row)))
            values = builder.bitcast(broadcast(builder, load(builder, address, I32), lanes), int16s)
            sums += [
                builder.add(next(added), _pairs(builder, self.unit, vector, values))
                for vector in weights
            ]
        return sums


def product_tiles(most_rows: int, blocks: int, unit: VectorISA) -> Callable[..., None]:
    """A function that multiplies some neighbouring blocks of weights with 1 to `most_rows` rows.

    It is called as `tiles(rows, weights, columns, values, row_scales, scales, biases, out, stride)`
    with addresses and a stride in bytes: int8 weights [blocks, columns / NEIGHBOURS, BLOCK,
    NEIGHBOURS], int16 values [rows, columns], `columns` a positive multiple of COLUMNS. It writes
    float32 [blocks * BLOCK] to each of the rows at `out`: the sums times `row_scales` [rows] times
    `scales`, plus `biases`, both [blocks * BLOCK]. The caller sees to it that no sum leaves the
    int32 range.
    """

    def write(builder: Any, args: Sequence[Any]) -> None:
        rows, *others = args
        tiles = [GemmTile(unit, count, blocks) for count in range(1, most_rows + 1)]
        cases(builder, rows, {t.rows: partial(t.multiply, builder, others) for t in tiles})

    return instructions(write)


def _pairs(builder: Any, unit: VectorISA, weights: Any, values: Any) -> Any:
    """int16 [2n] times int16 [2n], neighbours added: int32 [n]."""
    count = weights.type.count
    wide = ir.VectorType(I32, count // 2)
    if unit.instruction:  # LLVM does not find it by itself
        kind = ir.FunctionType(wide, [weights.type, values.type])
        multiply = builder.module.declare_intrinsic(unit.instruction, fnty=kind)
        return builder.call(multiply, [weights, values])
    halves = []
    for first in (0, 1):
        lanes = list(range(first, count, 2))
        halves.append(
            builder.mul(
                builder.sext(select(builder, weights, lanes), wide),
                builder.sext(select(builder, values, lanes), wide),
            )
        )
    return builder.add(*halves)
