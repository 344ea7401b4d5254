"""Instructions on the cells of a column that numba's own language does not reach: eight places of a vector.

Written as LLVM code, so the order of every sum is fixed here and not by the compiler. What
`distcalib.fit.kernel` keeps on disk holds this code too, and is renewed only when that file changes: so it
names this file's digest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_LANES = 8
_F64, _I32, _I64 = ir.DoubleType(), ir.IntType(32), ir.IntType(64)
_DOUBLES = ir.VectorType(_F64, _LANES)


@intrinsic
def bits(typing: Any, x: Any) -> Any:
    """Return the bits of a float32 as int32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _I32)

    return types.int32(types.float32), generate


@intrinsic
def from_bits(typing: Any, x: Any) -> Any:
    """Return the float32 of some bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def fetch(typing: Any, x: Any, k: Any) -> Any:
    """Begin to read the cache line of x[k], which need not be an element, from memory."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at = builder.bitcast(_at(context, builder, signature, args, 0, args[1]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [at.type, _I32, _I32, _I32])
        builder.call(
            cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0"),
            [at, _I32(0), _I32(3), _I32(1)],
        )
        return context.get_dummy_value()

    return types.void(x, k), generate


@intrinsic
def products(typing: Any, rows: Any, values: Any, r: Any, k: Any, t: Any, j: Any) -> Any:
    """Write values * r[rows] of the eight cells from k on to t from j on.

    By a load for each cell: instructions that gather take twice as long.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        k, j = args[3], args[5]
        picked = ir.Constant(ir.VectorType(context.get_data_type(r.dtype), _LANES), ir.Undefined)
        for i in range(_LANES):
            number = builder.load(_at(context, builder, signature, args, 0, builder.add(k, _I64(i))))
            one = builder.load(_at(context, builder, signature, args, 2, builder.zext(number, _I64)))
            picked = builder.insert_element(picked, one, _I32(i))
        cells = _load(context, builder, signature, args, 1, k)
        to = builder.bitcast(_at(context, builder, signature, args, 4, j), _DOUBLES.as_pointer())
        builder.store(builder.fmul(_wide(builder, cells), _wide(builder, picked)), to, align=8)
        return context.get_dummy_value()

    return types.void(rows, values, r, k, t, j), generate


def _totals(vectors: int) -> Callable[..., Any]:
    @intrinsic
    def total(typing: Any, t: Any, j: Any, n: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _, j, n = args
            whole = ir.VectorType(_I64, _LANES)
            end, parts = _every(builder, n, whole), []
            for q in range(0, vectors * _LANES, _LANES):
                some = _load(context, builder, signature, args, 0, builder.add(j, _I64(q)))
                inside = builder.icmp_unsigned("<", ir.Constant(whole, list(range(q, q + _LANES))), end)
                parts.append(builder.select(inside, some, ir.Constant(_DOUBLES, [0.0] * _LANES)))
            while len(parts) > 1:
                parts = [builder.fadd(a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
            (sums,) = parts
            while sums.type.count > 1:
                half = sums.type.count // 2
                low, high = (
                    builder.shuffle_vector(
                        sums,
                        ir.Constant(sums.type, ir.Undefined),
                        ir.Constant(ir.VectorType(_I32, half), list(range(first, first + half))),
                    )
                    for first in (0, half)
                )
                sums = builder.fadd(low, high)
            return builder.extract_element(sums, _I32(0))

        return types.float64(t, j, n), generate

    return total


#: Add up the first n, or all if n is more, of the 8 or 32 elements of t from j on. Elements of 0 at the end
#: change no bit, and neither does which of the two is asked for n <= 8.
total_of_8, total_of_32 = _totals(1), _totals(4)


def _spreads(vectors: int) -> Callable[..., Any]:
    @intrinsic
    def spread(typing: Any, values: Any, k: Any, w: Any, t: Any, j: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _, k, w, _, j = args
            weight = _every(builder, w, _DOUBLES)
            starts = range(0, vectors * _LANES, _LANES)
            cells = [_load(context, builder, signature, args, 0, builder.add(k, _I64(q))) for q in starts]
            for q, some in zip(starts, cells, strict=True):
                at = _at(context, builder, signature, args, 3, builder.add(j, _I64(q)))
                product = builder.fmul(_wide(builder, some), weight)
                builder.store(product, builder.bitcast(at, _DOUBLES.as_pointer()), align=8)
            return context.get_dummy_value()

        return types.void(values, k, w, t, j), generate

    return spread


#: Write values * w of the 8 or 32 cells from k on to t from j on.
spread_8, spread_32 = _spreads(1), _spreads(4)


def _at(context: Any, builder: Any, signature: Any, args: Any, i: int, index: Any) -> Any:
    """Return a pointer to an element of argument `i`, a contiguous array."""
    return builder.gep(context.make_array(signature.args[i])(context, builder, args[i]).data, [index])


def _load(context: Any, builder: Any, signature: Any, args: Any, i: int, index: Any) -> Any:
    """Return eight elements of argument `i`."""
    at = _at(context, builder, signature, args, i, index)
    element = context.get_data_type(signature.args[i].dtype)
    some = builder.bitcast(at, ir.VectorType(element, _LANES).as_pointer())
    return builder.load(some, align=signature.args[i].dtype.bitwidth // 8)


def _wide(builder: Any, vector: Any) -> Any:
    return vector if vector.type.element == _F64 else builder.fpext(vector, _DOUBLES)


def _every(builder: Any, x: Any, kind: Any) -> Any:
    """Return a vector of x in every place."""
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), x, _I32(0))
    zeros = ir.Constant(ir.VectorType(_I32, kind.count), [0] * kind.count)
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), zeros)
