"""Words for writing LLVM instructions on vectors, where numba's own language has none.

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
LINE = 64  # bytes of a cache line
FUSED = ("contract",)  # a product and a sum may become one instruction


@dataclass(frozen=True)
class VectorISA:
    """What a processor multiplies with.

    `lanes` outputs fit a vector of sums. `instruction` is what LLVM calls the product of int16
    pairs, each pair added up; None where it has to be put together. Weights are asked of the
    memory `ahead` bytes before they are needed: the faster the arithmetic, the earlier.
    """

    lanes: int
    instruction: str | None
    ahead: int


WIDE = VectorISA(16, "llvm.x86.avx512.pmaddw.d.512", 4096)
NARROW = VectorISA(8, "llvm.x86.avx2.pmadd.wd", 1024)
PLAIN = VectorISA(8, None, 1024)


def best_unit() -> VectorISA:
    """What this processor has."""
    features = get_host_cpu_features()
    if features.get("avx512bw"):
        return WIDE
    return NARROW if features.get("avx2") else PLAIN


UNIT = best_unit()


def integer(value: int) -> ir.Constant:
    return ir.Constant(I64, value)


def load(builder: Any, address: Any, kind: ir.Type) -> Any:
    """The value of type `kind` at `address`."""
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


def store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=1)


def prefetch(builder: Any, address: Any) -> None:
    """Ask the memory for the line at `address`, which need not be anybody's."""
    pointer = builder.inttoptr(address, I8.as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
    ask = builder.module.declare_intrinsic("llvm.prefetch.p0", fnty=kind)
    builder.call(ask, [pointer, *(ir.Constant(I32, value) for value in (0, 3, 1))])


def offset_address(builder: Any, address: Any, nbytes: int) -> Any:
    """The address so many bytes on."""
    return builder.add(address, integer(nbytes))


def select(builder: Any, vector: Any, lanes: list[int]) -> Any:
    """A vector of those elements of `vector`."""
    mask = ir.Constant(ir.VectorType(I32, len(lanes)), lanes)
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


def broadcast(builder: Any, value: Any, count: int) -> Any:
    """A vector with `value` in all of its `count` places."""
    empty = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(I32, 0))
    return select(builder, first, [0] * count)


def multiply_add(builder: Any, a: Any, b: Any, total: Any) -> Any:
    """a * b + total, of floats."""
    return builder.fadd(builder.fmul(a, b, flags=FUSED), total, flags=FUSED)


def loop(
    builder: Any,
    end: Any,
    step: int,
    carried: Sequence[Any],
    body: Callable[[Any, list[Any]], list[Any]],
) -> list[Any]:
    """What is `carried` after `body(index, carried)` for index 0, `step` … below `end`, which is
    positive."""
    before = builder.block
    turn, after = builder.append_basic_block("turn"), builder.append_basic_block("after")
    builder.branch(turn)
    builder.position_at_end(turn)
    index = builder.phi(I64)
    index.add_incoming(integer(0), before)
    held = [builder.phi(value.type) for value in carried]
    new = body(index, list(held))
    following = builder.add(index, integer(step))
    index.add_incoming(following, turn)
    for phi, first, next_ in zip(held, carried, new, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(next_, turn)
    builder.cbranch(builder.icmp_signed("<", following, end), turn, after)
    builder.position_at_end(after)
    return new


def cases(builder: Any, value: Any, bodies: Mapping[int, Callable[[], None]]) -> None:
    """Run the body for `value`; nothing where there is none."""
    after = builder.append_basic_block("after")
    switch = builder.switch(value, after)
    for case, body in bodies.items():
        block = builder.append_basic_block(f"case{case}")
        switch.add_case(integer(case), block)
        builder.position_at_end(block)
        body()
        builder.branch(after)
    builder.position_at_end(after)


def instructions(write: Callable[[Any, Sequence[Any]], None]) -> Callable[..., None]:
    """A function for compiled code, of any number of int64, whose instructions
    `write(builder, args)` writes."""

    def codegen(_: Any, builder: Any, __: Any, args: Any) -> None:
        count = len(args[0].type.elements)
        write(builder, [builder.extract_value(args[0], at) for at in range(count)])

    def function(_: Any, *args: Any) -> tuple[Any, Any]:
        return types.void(types.StarArgTuple([types.int64] * len(args))), codegen

    made: Callable[..., None] = intrinsic(function)
    return made
