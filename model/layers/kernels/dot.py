"""Integer dot products by the vector, which numba's language lacks, as LLVM instructions.

Weights lie as int8 [out / BLOCK, in / LANES, BLOCK, LANES], so that computing BLOCK outputs reads
memory from front to back: with rows one behind another it was half as fast. A tile keeps BLOCK
sums in registers.

Whatever processor runs them gets its own: nothing but the choice of one instruction is written
for a kind of processor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.extending import intrinsic

from model.layers.kernels.layout import BLOCK, LANES

LINE = 64  # bytes of a cache line
AHEAD = 2048  # bytes of weights, asked of the memory before they are needed
HAS_AVX2 = bool(get_host_cpu_features().get("avx2"))

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


def _int(value: int) -> ir.Constant:
    return ir.Constant(I64, value)


def _load(builder: Any, address: Any, kind: ir.Type) -> Any:
    size = kind.element.width // 8
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=size)


def _prefetch(builder: Any, address: Any) -> None:
    pointer = builder.inttoptr(address, I8.as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
    ask = builder.module.declare_intrinsic("llvm.prefetch.p0", fnty=kind)
    builder.call(ask, [pointer, *(ir.Constant(I32, value) for value in (0, 3, 1))])


def _select(builder: Any, vector: Any, lanes: list[int]) -> Any:
    mask = ir.Constant(ir.VectorType(I32, len(lanes)), lanes)
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


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
                builder.sext(_select(builder, weights, lanes), wide),
                builder.sext(_select(builder, values, lanes), wide),
            )
        )
    return builder.add(*halves)


def _sums(builder: Any, vectors: list[Any]) -> Any:
    """The sum of each of several int32 vectors, as one vector with an element for each."""
    while vectors[0].type.count > len(vectors):
        count = vectors[0].type.count
        low, high = list(range(count // 2)), list(range(count // 2, count))
        vectors = [
            builder.add(_select(builder, v, low), _select(builder, v, high)) for v in vectors
        ]
    while len(vectors) > 1:
        vectors = [_fold(builder, a, b) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
    return vectors[0]


def _fold(builder: Any, a: Any, b: Any) -> Any:
    """Neighbours of `a`, then those of `b`, added: half as many sums of twice as much."""
    count = a.type.count
    masks = [list(range(first, 2 * count, 2)) for first in (0, 1)]
    even, odd = (
        builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, count), mask)) for mask in masks
    )
    return builder.add(even, odd)


def dot_tile(weight_rows: int, value_rows: int) -> Callable[..., None]:
    """A function that multiplies some rows of weights with some rows of activations.

    It is called as `tile(weights, values, value_stride, columns, out)` with addresses and a
    stride in bytes: int8 weights [columns / LANES, BLOCK, LANES], from the first wanted row of
    the block on; int16 values; `columns` a positive multiple of LANES. It writes int32
    [weight_rows, value_rows] at `out`. The caller sees to it that no sum leaves the int32 range.
    """
    if weight_rows * value_rows != BLOCK:
        raise ValueError(f"a tile has {BLOCK} sums")
    int8s, int16s, sums = (ir.VectorType(kind, n) for kind, n in ((I8, 16), (I16, 16), (I32, 8)))

    def loop_body(builder: Any, args: Any, column: Any, totals: list[Any]) -> list[Any]:
        weights, values, value_stride, _, _ = args
        group = builder.add(weights, builder.mul(column, _int(BLOCK)))
        for line in range(0, BLOCK * LANES, LINE):
            _prefetch(builder, builder.add(group, _int(AHEAD + line)))
        offsets = [_int(LANES * j) for j in range(weight_rows)]
        wide = [
            builder.sext(_load(builder, builder.add(group, offset), int8s), int16s)
            for offset in offsets
        ]
        added = list(totals)
        for r in range(value_rows):
            row = builder.add(values, builder.mul(value_stride, _int(r)))
            value = _load(builder, builder.add(row, builder.shl(column, _int(1))), int16s)
            for j in range(weight_rows):
                k = j * value_rows + r
                added[k] = builder.add(added[k], _pairs(builder, wide[j], value))
        return added

    def codegen(context: Any, builder: Any, _: Any, args: Any) -> Any:
        before = builder.block
        loop, after = builder.append_basic_block("dot"), builder.append_basic_block("dotted")
        builder.branch(loop)
        builder.position_at_end(loop)
        column = builder.phi(I64)
        column.add_incoming(_int(0), before)
        totals = [builder.phi(sums) for _ in range(BLOCK)]
        added = loop_body(builder, args, column, totals)
        following = builder.add(column, _int(LANES))
        column.add_incoming(following, loop)
        for total, new in zip(totals, added, strict=True):
            total.add_incoming(ir.Constant(sums, None), before)
            total.add_incoming(new, loop)
        builder.cbranch(builder.icmp_signed("<", following, args[3]), loop, after)
        builder.position_at_end(after)
        result = _sums(builder, added)
        builder.store(result, builder.inttoptr(args[4], result.type.as_pointer()), align=4)
        return context.get_dummy_value()

    def tile(context: Any, weights, values, value_stride, columns, out):  # type: ignore[no-untyped-def]  # noqa: ARG001
        return types.void(*[types.int64] * 5), codegen

    made: Callable[..., None] = intrinsic(tile)
    return made
