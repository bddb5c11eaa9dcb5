"""Helpers that write LLVM instructions on vectors, where numba's own language has none.

Addresses are int64 values; memory need not be aligned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.extending import intrinsic

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
HALF, FLOAT = ir.HalfType(), ir.FloatType()
CACHE_LINE = 64  # bytes
CONTRACT = ("contract",)  # a product and a sum may become one instruction


@dataclass(frozen=True)
class VectorISA:
    """The multiplication that a processor has.

    `lanes` outputs fit a vector of sums. `pair_product` is LLVM's name for the instruction that
    multiplies int16 pairs and adds up each pair; None where it has to be put together. Weights are
    prefetched `prefetch_bytes` before they are needed: the faster the arithmetic, the earlier.
    """

    lanes: int
    pair_product: str | None
    prefetch_bytes: int


AVX512 = VectorISA(16, "llvm.x86.avx512.pmaddw.d.512", 4096)
AVX2 = VectorISA(8, "llvm.x86.avx2.pmadd.wd", 1024)
GENERIC = VectorISA(8, None, 1024)


def detect_isa() -> VectorISA:
    """The best that this processor has."""
    features = get_host_cpu_features()
    if features.get("avx512bw"):
        return AVX512
    return AVX2 if features.get("avx2") else GENERIC


HOST_ISA = detect_isa()


def int64(value: int) -> ir.Constant:
    return ir.Constant(I64, value)


def load(builder: Any, address: Any, kind: ir.Type) -> Any:
    """The value of type `kind` at `address`."""
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


def store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=1)


def prefetch(builder: Any, address: Any) -> None:
    """Fetch the cache line at `address`, which need not belong to the program."""
    pointer = builder.inttoptr(address, I8.as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
    function = builder.module.declare_intrinsic("llvm.prefetch.p0", fnty=kind)
    builder.call(function, [pointer, *(ir.Constant(I32, value) for value in (0, 3, 1))])


def offset_address(builder: Any, address: Any, nbytes: int) -> Any:
    """The address `nbytes` further on."""
    return builder.add(address, int64(nbytes))


def select(builder: Any, vector: Any, lanes: list[int]) -> Any:
    """A vector of the elements `lanes` of `vector`."""
    mask = ir.Constant(ir.VectorType(I32, len(lanes)), lanes)
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


def broadcast(builder: Any, value: Any, count: int) -> Any:
    """A vector with `value` in all of its `count` lanes."""
    empty = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(I32, 0))
    return select(builder, first, [0] * count)


def multiply_add(builder: Any, a: Any, b: Any, total: Any) -> Any:
    """a * b + total, of floats."""
    return builder.fadd(builder.fmul(a, b, flags=CONTRACT), total, flags=CONTRACT)


def loop(
    builder: Any,
    end: Any,
    step: int,
    initial: Sequence[Any],
    body: Callable[[Any, list[Any]], list[Any]],
) -> list[Any]:
    """Writes a loop over index 0, `step` … below `end`, which is positive.

    `body(index, carried)` returns what the next turn carries; the first carries `initial`. Returns
    what the last turn returned.
    """
    before = builder.block
    turn, after = builder.append_basic_block("turn"), builder.append_basic_block("after")
    builder.branch(turn)
    builder.position_at_end(turn)
    index = builder.phi(I64)
    index.add_incoming(int64(0), before)
    carried = [builder.phi(value.type) for value in initial]
    results = body(index, list(carried))
    next_index = builder.add(index, int64(step))
    index.add_incoming(next_index, turn)
    for phi, first, result in zip(carried, initial, results, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(result, turn)
    builder.cbranch(builder.icmp_signed("<", next_index, end), turn, after)
    builder.position_at_end(after)
    return results


def cases(builder: Any, value: Any, bodies: Mapping[int, Callable[[], None]]) -> None:
    """Writes a switch that runs the body for `value`, or nothing where there is none."""
    after = builder.append_basic_block("after")
    switch = builder.switch(value, after)
    for case, body in bodies.items():
        block = builder.append_basic_block(f"case{case}")
        switch.add_case(int64(case), block)
        builder.position_at_end(block)
        body()
        builder.branch(after)
    builder.position_at_end(after)


def ir_function(write: Callable[[Any, Sequence[Any]], None]) -> Callable[..., None]:
    """A function for compiled code, of any number of int64, whose instructions
    `write(builder, args)` writes."""

    def codegen(_: Any, builder: Any, __: Any, args: Any) -> None:
        count = len(args[0].type.elements)
        write(builder, [builder.extract_value(args[0], at) for at in range(count)])

    def function(_: Any, *args: Any) -> tuple[Any, Any]:
        return types.void(types.StarArgTuple([types.int64] * len(args))), codegen

    made: Callable[..., None] = intrinsic(function)
    return made
