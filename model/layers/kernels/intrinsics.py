"""Atomics, bit casts, and the few calls of the C library, for compiled functions.

Addresses are int64. All atomic operations are sequentially consistent.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.extending import intrinsic

INT64 = ir.IntType(64)
ORDER = "seq_cst"
HAS_PAUSE = bool(get_host_cpu_features().get("sse2"))

# Of the C library, which every Python process has loaded. A call by name can be cached on disk;
# one through ctypes cannot.
sched_yield = types.ExternalFunction("sched_yield", types.int32())
sem_post = types.ExternalFunction("sem_post", types.int32(types.int64))
sem_wait = types.ExternalFunction("sem_wait", types.int32(types.int64))


def _pointer(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, INT64.as_pointer())


@intrinsic
def load(_: Any, address: Any) -> Any:
    """The int64 at `address`."""

    def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
        return builder.load_atomic(_pointer(builder, args[0]), ORDER, 8)

    return types.int64(types.int64), codegen


@intrinsic
def store(_: Any, address: Any, value: Any) -> Any:
    """Put the int64 `value` at `address`."""

    def codegen(context: Any, builder: Any, __: Any, args: Any) -> Any:
        builder.store_atomic(args[1], _pointer(builder, args[0]), ORDER, 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def add(_: Any, address: Any, value: Any) -> Any:
    """Add to the int64 at `address`; what was there before."""

    def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _pointer(builder, args[0]), args[1], ORDER)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def swap(_: Any, address: Any, old: Any, new: Any) -> Any:
    """Put `new` at `address` if `old` is there; whether it was."""

    def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
        pointer = _pointer(builder, args[0])
        pair = builder.cmpxchg(pointer, args[1], args[2], ORDER, ORDER)
        return builder.extract_value(pair, 1)

    return types.boolean(types.int64, types.int64, types.int64), codegen


@intrinsic
def half_to_float(_: Any, bits: Any) -> Any:
    """The number whose float16 form is `bits` (int16)."""

    def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.int16), codegen


@intrinsic
def float_to_half(_: Any, value: Any) -> Any:
    """The float16 form of `value` (float32), as int16."""

    def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.int16(types.float32), codegen


@intrinsic
def float_of_bits(_: Any, bits: Any) -> Any:
    """The float32 whose bits are those of an int32."""

    def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@intrinsic
def _at(_: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.voidptr(types.int64), codegen


pointer_at = _at


@intrinsic
def relax(_: Any) -> Any:
    """Tell the processor that this is a waiting loop."""

    def codegen(context: Any, builder: Any, __: Any, ___: Any) -> Any:
        if HAS_PAUSE:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", fnty=kind), [])
        return context.get_dummy_value()

    return types.void(), codegen
