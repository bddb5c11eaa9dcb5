"""Primitives of compiled functions: compile options, atomics, bit casts, calls of the C library,
and arrays over memory that is known by its address.

Addresses are int64. All atomic operations are sequentially consistent.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import carray, njit, types
from numba.extending import intrinsic

INT64 = ir.IntType(64)
ORDER = "seq_cst"
HAS_PAUSE = bool(get_host_cpu_features().get("sse2"))

# Without the GIL, cached on disk, and with the hardware's division: no ZeroDivisionError.
compiled: Any = njit(nogil=True, cache=True, error_model="numpy")
# The same, but sums may be reordered, so that they run by the vector. NaN stays NaN.
compiled_fast: Any = njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp", "nsz"}
)

# From the C library, which every Python process has loaded. A call by name can be cached on disk;
# one through ctypes cannot.
sched_yield = types.ExternalFunction("sched_yield", types.int32())
sem_post = types.ExternalFunction("sem_post", types.int32(types.int64))
sem_wait = types.ExternalFunction("sem_wait", types.int32(types.int64))


def _int64_pointer(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, INT64.as_pointer())


@intrinsic
def atomic_load(_: Any, address: Any) -> Any:
    """Returns the int64 at `address`."""

    def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
        return builder.load_atomic(_int64_pointer(builder, args[0]), ORDER, 8)

    return types.int64(types.int64), codegen


@intrinsic
def atomic_store(_: Any, address: Any, value: Any) -> Any:
    """Writes the int64 `value` to `address`."""

    def codegen(context: Any, builder: Any, __: Any, args: Any) -> Any:
        builder.store_atomic(args[1], _int64_pointer(builder, args[0]), ORDER, 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def atomic_add(_: Any, address: Any, value: Any) -> Any:
    """Adds to the int64 at `address`; returns what was there before."""

    def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _int64_pointer(builder, args[0]), args[1], ORDER)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def compare_and_swap(_: Any, address: Any, expected: Any, new: Any) -> Any:
    """Writes `new` to `address` if `expected` is there; returns whether it was."""

    def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
        pointer = _int64_pointer(builder, args[0])
        pair = builder.cmpxchg(pointer, args[1], args[2], ORDER, ORDER)
        return builder.extract_value(pair, 1)

    return types.boolean(types.int64, types.int64, types.int64), codegen


@intrinsic
def cpu_pause(_: Any) -> Any:
    """Tells the processor that this is a waiting loop."""

    def codegen(context: Any, builder: Any, __: Any, ___: Any) -> Any:
        if HAS_PAUSE:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", fnty=kind), [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def float16_to_float32(_: Any, bits: Any) -> Any:
    """The number whose float16 form is `bits` (int16)."""

    def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.int16), codegen


@intrinsic
def float32_to_float16(_: Any, value: Any) -> Any:
    """The float16 form of `value` (float32), as int16."""

    def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.int16(types.float32), codegen


@intrinsic
def bits_to_float32(_: Any, bits: Any) -> Any:
    """The float32 whose bits are those of an int32."""

    def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@intrinsic
def pointer_at(_: Any, address: Any) -> Any:
    """An untyped pointer to `address`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.voidptr(types.int64), codegen


@compiled
def float32_array(address, count):
    """float32 [count] at `address`."""
    return carray(pointer_at(address), (count,), np.float32)


@compiled
def int8_array(address, count):
    """int8 [count] at `address`."""
    return carray(pointer_at(address), (count,), np.int8)


@compiled
def int16_array(address, count):
    """int16 [count] at `address`; the bits of float16 numbers, too."""
    return carray(pointer_at(address), (count,), np.int16)
