"""Register operations of feature fusion that other kernels have no use for: bytes in, rounded bytes out, cache hints.

Companion of `shortlist.kernels.lanes`; for use inside `njit`, and as unchecked.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from shortlist.kernels.lanes import LANES, lanes_type

_BYTE, _INT = ir.IntType(8), ir.IntType(32)
_MEMORY = {  # what an element of an array is to LLVM; uint16 stands for half precision
    types.float32: (ir.FloatType(), "f32"),
    types.uint16: (ir.HalfType(), "f16"),
    types.uint8: (_BYTE, "i8"),
    types.int8: (_BYTE, "i8"),
}
_FLOATS, _INTS = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(_INT, LANES)
_BITS = ir.VectorType(ir.IntType(1), LANES)
# Adding it leaves no bits for fractions: the sum is rounded to the nearest even integer, and that integer, as two's
# complement, is what its lowest bits hold (Hacker's Delight). Good for |x| < 2^22.
_SHIFT = 1.5 * 2**23
_FETCH_FOR_READING, _INTO_ALL_CACHES, _DATA = _INT(0), _INT(3), _INT(1)


@intrinsic
def read(typing: Any, array: Any, row: Any, column: Any, count: Any) -> Any:
    """The first `count` (at most 16) columns from `array[row, column]` on, as float32; the lanes after them are 0.

    `array` float32, uint16 (half precision) or int8 [M, W].
    """
    element, name = _MEMORY[array.dtype]
    memory = ir.VectorType(element, LANES)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _pointer(context, builder, signature.args[0], *arguments[:3])
        function = _declared(builder, f"llvm.masked.load.v{LANES}{name}.p0", memory, [place.type, _INT, _BITS, memory])
        size = _INT(array.dtype.bitwidth // 8)
        values = builder.call(function, [place, size, _first(builder, arguments[3]), ir.Constant(memory, None)])
        if element == _BYTE:
            return builder.sitofp(values, _FLOATS)
        return values if memory == _FLOATS else builder.fpext(values, _FLOATS)

    return lanes_type(array, types.intp, types.intp, types.intp), generate


@intrinsic
def write(typing: Any, array: Any, row: Any, column: Any, lanes: Any, count: Any) -> Any:
    """Put the first `count` (at most 16) lanes at `array[row, column]`: integers get the nearest even one.

    `array` float32, uint16 (half precision), uint8 or int8 [M, G]. Lanes for integers must be within their range.
    """
    element, name = _MEMORY[array.dtype]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _pointer(context, builder, signature.args[0], *arguments[:3])
        values = _narrow(builder, arguments[3], element)
        kinds = [values.type, place.type, _INT, _BITS]
        function = _declared(builder, f"llvm.masked.store.v{LANES}{name}.p0", ir.VoidType(), kinds)
        builder.call(function, [values, place, _INT(array.dtype.bitwidth // 8), _first(builder, arguments[4])])
        return context.get_dummy_value()

    return types.none(array, types.intp, types.intp, lanes_type, types.intp), generate


@intrinsic
def prefetch(typing: Any, array: Any, row: Any, byte: Any) -> Any:
    """Ask for the cache line of byte `byte` of `array[row]`; nothing waits for it, and no address is wrong."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _byte_pointer(context, builder, signature.args[0], *arguments)
        function = _declared(builder, "llvm.prefetch.p0", ir.VoidType(), [place.type, _INT, _INT, _INT])
        builder.call(function, [place, _FETCH_FOR_READING, _INTO_ALL_CACHES, _DATA])
        return context.get_dummy_value()

    return types.none(array, types.intp, types.intp), generate


@intrinsic
def first_four(typing: Any, lanes: Any) -> Any:
    """The first four lanes as numbers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return cgutils.pack_array(builder, [builder.extract_element(arguments[0], _INT(i)) for i in range(4)])

    return types.UniTuple(types.float32, 4)(lanes_type), generate


def _narrow(builder: Any, lanes: Any, element: Any) -> Any:
    vector = ir.VectorType(element, LANES)
    if element == _BYTE:
        shifted = builder.fadd(lanes, ir.Constant(_FLOATS, [_SHIFT] * LANES))
        return builder.trunc(builder.bitcast(shifted, _INTS), vector)
    return lanes if vector == _FLOATS else builder.fptrunc(lanes, vector)


def _first(builder: Any, count: Any) -> Any:
    """A mask of the first `count` lanes. A constant 16 makes LLVM forget about the mask."""
    one = builder.insert_element(ir.Constant(_INTS, ir.Undefined), builder.trunc(count, _INT), _INT(0))
    bound = builder.shuffle_vector(one, one, ir.Constant(_INTS, [0] * LANES))
    return builder.icmp_signed("<", ir.Constant(_INTS, list(range(LANES))), bound)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, row: Any, column: Any) -> Any:
    size = array_type.dtype.bitwidth // 8
    return _byte_pointer(context, builder, array_type, array, row, builder.mul(column, ir.Constant(column.type, size)))


def _byte_pointer(context: Any, builder: Any, array_type: Any, array: Any, row: Any, byte: Any) -> Any:
    """Where `array[row]` lies in memory, plus `byte`: rows may be any distance apart, the elements of one may not."""
    parts = context.make_array(array_type)(context, builder, array)
    distance, *_ = cgutils.unpack_tuple(builder, parts.strides)
    start = builder.bitcast(parts.data, _BYTE.as_pointer())
    return builder.gep(start, [builder.add(builder.mul(row, distance), byte)])


def _declared(builder: Any, name: str, result: Any, kinds: list[Any]) -> Any:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, kinds), name)
