"""Integer dot products by the vector: blocks of int8 weights with rows of int16 activations.

Weights lie as int8 [out / BLOCK, in / NEIGHBOURS, BLOCK, NEIGHBOURS]. Computing BLOCK outputs reads
memory from front to back: with rows one behind another it was half as fast. And one instruction
multiplies the neighbours of eight outputs with the same activations, so that the sums of different
outputs never have to be told apart.

Whatever processor runs them gets its own: nothing but the choice of one instruction is written
for a kind of processor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features

from model.layers.kernels.layout import BLOCK, COLUMNS, NEIGHBOURS
from model.layers.kernels.vectors import (
    I8,
    I16,
    I32,
    LINE,
    further,
    instructions,
    integer,
    load,
    loop,
    prefetch,
    repeated,
    select,
    store,
)

AHEAD = 1024  # bytes of weights, asked of the memory before they are needed
LANES = 8  # outputs in a vector of sums
HALVES = BLOCK // LANES
HAS_AVX2 = bool(get_host_cpu_features().get("avx2"))

SUMS = ir.VectorType(I32, LANES)
INT8S, INT16S = (ir.VectorType(kind, LANES * NEIGHBOURS) for kind in (I8, I16))


def dot_tile(rows: int, unroll: int, blocks: int = 1) -> Callable[..., None]:
    """A function that multiplies some blocks of weights with some rows of activations.

    It is called as `tile(weights, values, stride, columns, out)` with addresses and a stride in
    bytes: int8 weights [blocks, columns / NEIGHBOURS, BLOCK, NEIGHBOURS], int16 values [rows,
    columns]; `columns` a positive multiple of COLUMNS. It writes int32 [blocks, rows, BLOCK] at
    `out`. The caller sees to it that no sum leaves the int32 range. `unroll` is how often
    NEIGHBOURS columns are taken in one turn of the loop.
    """
    if COLUMNS % (NEIGHBOURS * unroll):
        raise ValueError(f"{unroll} times {NEIGHBOURS} columns do not divide {COLUMNS}")

    def write(builder: Any, args: Sequence[Any]) -> None:
        weights, values, stride, columns, out = args
        size = builder.mul(columns, integer(BLOCK))
        begins = [builder.add(weights, builder.mul(size, integer(at))) for at in range(blocks)]

        def turn(column: Any, totals: list[Any]) -> list[Any]:
            offset = builder.mul(column, integer(BLOCK))
            groups = [builder.add(begin, offset) for begin in begins]
            first = builder.add(values, builder.shl(column, integer(1)))
            for group in groups:
                for at in range(0, unroll * BLOCK * NEIGHBOURS, LINE):
                    prefetch(builder, further(builder, group, AHEAD + at))
            for _ in range(unroll):
                totals = _add_products(builder, groups, first, stride, totals)
                groups = [further(builder, group, BLOCK * NEIGHBOURS) for group in groups]
                first = further(builder, first, 2 * NEIGHBOURS)
            return totals

        zeros = [ir.Constant(SUMS, None)] * (blocks * rows * HALVES)
        sums = loop(builder, columns, NEIGHBOURS * unroll, zeros, turn)
        for at, vector in enumerate(sums):
            store(builder, vector, further(builder, out, 4 * LANES * at))

    return instructions(write)


def _add_products(
    builder: Any, groups: Sequence[Any], first: Any, stride: Any, totals: list[Any]
) -> list[Any]:
    """`totals`, HALVES for each row and block, and the products of a group of weights of each."""
    rows = len(totals) // (len(groups) * HALVES)
    weights = [
        builder.sext(
            load(builder, further(builder, group, LANES * NEIGHBOURS * half), INT8S), INT16S
        )
        for group in groups
        for half in range(HALVES)
    ]
    added = list(totals)
    for row in range(rows):
        address = builder.add(first, builder.mul(stride, integer(row)))
        values = builder.bitcast(repeated(builder, load(builder, address, I32), LANES), INT16S)
        for at, vector in enumerate(weights):
            block, half = divmod(at, HALVES)
            place = (block * rows + row) * HALVES + half
            added[place] = builder.add(added[place], _pairs(builder, vector, values))
    return added


def _pairs(builder: Any, weights: Any, values: Any) -> Any:
    """int16 [2n] times int16 [2n], neighbours added: int32 [n]."""
    count = weights.type.count
    wide = ir.VectorType(I32, count // 2)
    if HAS_AVX2:  # LLVM does not find this instruction by itself
        kind = ir.FunctionType(wide, [weights.type, values.type])
        name = "llvm.x86.avx2.pmadd.wd"
        return builder.call(builder.module.declare_intrinsic(name, fnty=kind), [weights, values])
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
