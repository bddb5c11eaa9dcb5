"""Writes the LLVM code that multiplies blocks of int8 weights with rows of int16 activations.

Weights are stored as int8 [out / BLOCK_ROWS, in / ADJACENT_COLUMNS, BLOCK_ROWS, ADJACENT_COLUMNS].
Computing BLOCK_ROWS outputs reads memory from front to back: with rows one behind another it was
half as fast. And one instruction multiplies the adjacent columns of a vector of outputs with the
same activations, so that the sums of different outputs never have to be told apart.

Each kind of processor gets its own code: only the width of a vector and the name of one instruction
are written for a kind of processor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from llvmlite import ir

from model.layers.kernels.llvm_ir import (
    CACHE_LINE,
    FLOAT,
    I8,
    I16,
    I32,
    VectorISA,
    broadcast,
    cases,
    int64,
    ir_function,
    load,
    loop,
    multiply_add,
    offset_address,
    prefetch,
    select,
    store,
)
from model.layers.kernels.records import ADJACENT_COLUMNS, BLOCK_ROWS, COLUMN_PADDING

MIN_SUMS = 8  # that do not wait for one another, to keep the multipliers busy
UNROLLED_PRODUCTS = 32  # in one turn of the loop, about
GROUP_BYTES = BLOCK_ROWS * ADJACENT_COLUMNS  # the adjacent columns of a block


@dataclass(frozen=True)
class GemmTile:
    """The sums of some rows in some neighbouring blocks, which stay in registers."""

    isa: VectorISA
    rows: int
    blocks: int

    @property
    def vectors_per_block(self) -> int:
        return BLOCK_ROWS // self.isa.lanes

    @property
    def sums(self) -> int:
        return self.rows * self.blocks * self.vectors_per_block

    @property
    def partial_sums(self) -> int:
        """The number of parts in which each sum is made, so that there are MIN_SUMS of them."""
        return 1 << max(0, (MIN_SUMS // self.sums).bit_length() - 1)

    @property
    def unroll(self) -> int:
        """How many times ADJACENT_COLUMNS one turn of the loop takes: a power of two."""
        turns = 1 << max(1, (UNROLLED_PRODUCTS // self.sums).bit_length() - 1)
        return min(turns, COLUMN_PADDING // ADJACENT_COLUMNS)

    def multiply(self, builder: Any, args: Sequence[Any]) -> None:
        """Writes the code of `gemm_tiles` for as many rows as this tile has."""
        weights, columns, values, row_scales, scales, biases, out, stride = args
        totals = iter(self._sum_products(builder, weights, columns, values))
        floats = ir.VectorType(FLOAT, self.isa.lanes)
        for row in range(self.rows):
            row_scale = load(builder, offset_address(builder, row_scales, 4 * row), FLOAT)
            factor = broadcast(builder, row_scale, self.isa.lanes)
            for at in range(0, 4 * self.blocks * BLOCK_ROWS, 4 * self.isa.lanes):
                scale, bias = (load(builder, offset_address(builder, a, at), floats)
                               for a in (scales, biases))  # fmt: skip
                total = builder.sitofp(next(totals), floats)
                y = multiply_add(builder, total, builder.fmul(scale, factor), bias)
                store(builder, y, offset_address(builder, out, at))
            out = builder.add(out, stride)

    def _sum_products(self, builder: Any, weights: Any, columns: Any, values: Any) -> list[Any]:
        """int32 vectors: for each row the outputs of all blocks."""
        block_bytes = builder.mul(columns, int64(BLOCK_ROWS))
        blocks = [builder.add(weights, builder.mul(block_bytes, int64(at)))
                  for at in range(self.blocks)]  # fmt: skip
        stride = builder.shl(columns, int64(1))

        def turn(column: Any, totals: list[Any]) -> list[Any]:
            offset = builder.mul(column, int64(BLOCK_ROWS))
            groups = [builder.add(block, offset) for block in blocks]
            for group in groups:
                for at in range(0, self.unroll * GROUP_BYTES, CACHE_LINE):
                    prefetch(builder, offset_address(builder, group, self.isa.prefetch_bytes + at))
            row_values = builder.add(values, builder.shl(column, int64(1)))
            sums = list(totals)
            for step in range(self.unroll):
                part = slice(step % self.partial_sums, None, self.partial_sums)
                sums[part] = self._add_products(builder, groups, row_values, stride, sums[part])
                groups = [offset_address(builder, group, GROUP_BYTES) for group in groups]
                row_values = offset_address(builder, row_values, 2 * ADJACENT_COLUMNS)
            return sums

        zero = ir.Constant(ir.VectorType(I32, self.isa.lanes), None)
        sums = loop(builder, columns, ADJACENT_COLUMNS * self.unroll,
                    [zero] * self.sums * self.partial_sums, turn)  # fmt: skip
        while len(sums) > self.sums:  # integers: the order of adding them up is free
            sums = [builder.add(a, b) for a, b in zip(sums[::2], sums[1::2], strict=True)]
        return sums

    def _add_products(
        self, builder: Any, groups: Sequence[Any], values: Any, stride: Any, totals: Sequence[Any]
    ) -> list[Any]:
        """`totals` and the products of a group of weights of each block."""
        lanes, previous = self.isa.lanes, iter(totals)
        int8s, int16s = (ir.VectorType(kind, lanes * ADJACENT_COLUMNS) for kind in (I8, I16))
        weights = [
            builder.sext(load(builder, offset_address(builder, group, at), int8s), int16s)
            for group in groups
            for at in range(0, GROUP_BYTES, lanes * ADJACENT_COLUMNS)
        ]
        sums = []
        for row in range(self.rows):
            address = builder.add(values, builder.mul(stride, int64(row)))
            pair = builder.bitcast(broadcast(builder, load(builder, address, I32), lanes), int16s)
            sums += [
                builder.add(next(previous), _pair_products(builder, self.isa, vector, pair))
                for vector in weights
            ]
        return sums


def gemm_tiles(max_rows: int, blocks: int, isa: VectorISA) -> Callable[..., None]:
    """A function that multiplies some neighbouring blocks of weights with 1 to `max_rows` rows.

    It is called as `tiles(rows, weights, columns, values, row_scales, scales, biases, out, stride)`
    with addresses and a stride in bytes: int8 weights [blocks, columns / ADJACENT_COLUMNS,
    BLOCK_ROWS, ADJACENT_COLUMNS], int16 values [rows, columns], `columns` a positive multiple of
    COLUMN_PADDING. It writes float32 [blocks * BLOCK_ROWS] to each of the rows at `out`: the sums
    times `row_scales` [rows] times `scales`, plus `biases`, both [blocks * BLOCK_ROWS]. The caller
    makes sure that no sum leaves the int32 range.
    """

    def write(builder: Any, args: Sequence[Any]) -> None:
        rows, *others = args
        tiles = [GemmTile(isa, count, blocks) for count in range(1, max_rows + 1)]
        cases(builder, rows, {t.rows: partial(t.multiply, builder, others) for t in tiles})

    return ir_function(write)


def _pair_products(builder: Any, isa: VectorISA, weights: Any, values: Any) -> Any:
    """int16 [2n] times int16 [2n], adjacent products added: int32 [n]."""
    count = weights.type.count
    int32s = ir.VectorType(I32, count // 2)
    if isa.pair_product:  # LLVM does not find it by itself
        kind = ir.FunctionType(int32s, [weights.type, values.type])
        multiply = builder.module.declare_intrinsic(isa.pair_product, fnty=kind)
        return builder.call(multiply, [weights, values])
    products = []
    for first in (0, 1):
        lanes = list(range(first, count, 2))
        products.append(
            builder.mul(
                builder.sext(select(builder, weights, lanes), int32s),
                builder.sext(select(builder, values, lanes), int32s),
            )
        )
    return builder.add(*products)
