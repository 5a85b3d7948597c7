"""Sixteen float32 lanes as a Numba type: the vector register that the CPU kernels compute in, whatever the processor.

LLVM turns it into one 512-bit register, two of 256 bits or four of 128, with the same result to the last bit: sums
follow the order of `numerics.lane_dot`, and nothing is fused or re-associated. All of it is for use inside `njit`;
indices are not checked, and a row's elements must lie side by side (rows may be any distance apart).
Half-precision arrays come as views of uint16, since Numba has no float16 on the CPU.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic, models, register_model
from numba.np import arrayobj

from shortlist.kernels.numerics import LANES as LANES  # for those who compute with lanes

_INT = ir.IntType(32)
_FLOAT = ir.VectorType(ir.FloatType(), LANES)
_HALF = ir.VectorType(ir.HalfType(), LANES)
_BITS = ir.VectorType(ir.IntType(1), LANES)
_NUMBERS = ir.Constant(ir.VectorType(_INT, LANES), list(range(LANES)))
_ALIGNMENT = 64  # of scratch memory: a whole register of the widest kind, a cache line


class LanesType(types.Type):  # type: ignore[misc]  # Numba has no type hints
    """The Numba type of sixteen float32."""

    def __init__(self) -> None:
        super().__init__(name="Lanes16")


lanes_type = LanesType()

# For functions that only compiled ones call: what Python would need to call them is not compiled, a third of the time.
internal = partial(njit, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
# Those of an inner loop: arrays are borrowed, their references not counted (counting them costs 20 ns a call).
inlined = internal(forceinline=True, _nrt=False)


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, _FLOAT)


@intrinsic
def load(typing: Any, array: Any, row: Any, column: Any) -> Any:
    """Columns [column, column + 16) of `array[row]`, widened to float32. float32 or uint16 (half precision) [M, D]."""
    memory = _memory_type(array.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _pointer(context, builder, signature, arguments, memory)
        return _widen(builder, builder.load(place, align=_size(array.dtype)))

    return lanes_type(array, types.intp, types.intp), generate


@intrinsic
def load_tail(typing: Any, array: Any, row: Any, column: Any, count: Any) -> Any:
    """As `load`, but only the first `count` columns are read; the lanes after them are 0."""
    memory = _memory_type(array.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _pointer(context, builder, signature, arguments, memory)
        bound = _splat(builder, builder.trunc(arguments[3], _INT))
        wanted = builder.icmp_signed("<", _NUMBERS, bound)
        name = f"llvm.masked.load.v{LANES}{'f16' if memory == _HALF else 'f32'}.p0"
        masked = ir.FunctionType(memory, [place.type, _INT, _BITS, memory])
        read = cgutils.get_or_insert_function(builder.module, masked, name)
        none = ir.Constant(memory, [0.0] * LANES)
        return _widen(builder, builder.call(read, [place, _INT(_size(array.dtype)), wanted, none]))

    return lanes_type(array, types.intp, types.intp, types.intp), generate


@intrinsic
def store(typing: Any, array: Any, row: Any, column: Any, lanes: Any) -> Any:
    """Write all lanes to columns [column, column + 16) of `array[row]`, float32 [M, D]."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _pointer(context, builder, signature, arguments, _FLOAT)
        builder.store(arguments[3], place, align=_size(array.dtype))
        return context.get_dummy_value()

    return types.none(array, types.intp, types.intp, lanes_type), generate


@intrinsic
def broadcast(typing: Any, value: Any) -> Any:
    """All lanes hold `value`."""
    return lanes_type(types.float32), lambda context, builder, signature, arguments: _splat(builder, arguments[0])


@intrinsic
def mul_add(typing: Any, left: Any, right: Any, addend: Any) -> Any:
    """left · right + addend, rounded after the product and again after the sum."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fadd(builder.fmul(arguments[0], arguments[1]), arguments[2])

    return lanes_type(lanes_type, lanes_type, lanes_type), generate


@intrinsic
def mul(typing: Any, left: Any, right: Any) -> Any:
    """left · right."""
    return lanes_type(lanes_type, lanes_type), lambda context, builder, signature, args: builder.fmul(*args)


@intrinsic
def sub(typing: Any, left: Any, right: Any) -> Any:
    """left − right."""
    return lanes_type(lanes_type, lanes_type), lambda context, builder, signature, args: builder.fsub(*args)


@intrinsic
def larger(typing: Any, left: Any, right: Any) -> Any:
    """left where left > right, else right: of a NaN on the left nothing is seen."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *arguments), *arguments)

    return lanes_type(lanes_type, lanes_type), generate


@intrinsic
def smaller(typing: Any, left: Any, right: Any) -> Any:
    """left where left < right, else right."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", *arguments), *arguments)

    return lanes_type(lanes_type, lanes_type), generate


@intrinsic
def at_least(typing: Any, left: Any, right: Any) -> Any:
    """Bit j of the result says whether lane j of `left` >= that of `right`; with a NaN it is not."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(builder.fcmp_ordered(">=", *arguments), ir.IntType(LANES))
        return builder.zext(bits, ir.IntType(64))

    return types.uint64(lanes_type, lanes_type), generate


@intrinsic
def lowest_bit(typing: Any, bits: Any) -> Any:
    """The number of the lowest bit that is set in a uint64 other than 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.intp(types.uint64), generate


@intrinsic
def total(typing: Any, lanes: Any) -> Any:
    """The sum of all lanes: j and j + 8, then j and j + 4, j and j + 2, and the last two."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _reduce(builder, arguments[0], builder.fadd)

    return types.float32(lanes_type), generate


@intrinsic
def largest(typing: Any, lanes: Any) -> Any:
    """The largest lane; none may be NaN."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def larger_of(left: Any, right: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", left, right), left, right)

        return _reduce(builder, arguments[0], larger_of)

    return types.float32(lanes_type), generate


@intrinsic(prefer_literal=True)
def fold(typing: Any, left: Any, right: Any, width: Any) -> Any:
    """One step of sixteen totals at a time: `left`, `right` consist of runs of `width` lanes (constant: 16, 8, 4, 2).

    Each run becomes half as long, lane j plus lane j + width/2; the runs of `left` come first. Four steps turn sixteen
    vectors into one that holds the `total` of each, in order.
    """
    step = width.literal_value
    first = [run * step + j for run in range(2 * LANES // step) for j in range(step // 2)]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        left, right, _ = arguments
        halves = [builder.shuffle_vector(left, right, _indices([j + d for j in first])) for d in (0, step // 2)]
        return builder.fadd(*halves)

    return lanes_type(lanes_type, lanes_type, width), generate


@intrinsic(prefer_literal=True)
def stack(typing: Any, rows: Any, columns: Any, dtype: Any) -> Any:
    """An array [rows, columns] of `dtype` on the caller's stack, not initialised; both counts are constants.

    It dies when the function that called `stack` returns.
    """
    shape, size = (rows.literal_value, columns.literal_value), _size(dtype.dtype)
    array_type = types.Array(dtype.dtype, 2, "C")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        element = context.get_data_type(dtype.dtype)
        with builder.goto_entry_block():  # cgutils.alloca_once would fill it with zeros
            memory = builder.alloca(ir.ArrayType(element, shape[0] * shape[1]))
        memory.align = _ALIGNMENT
        array = arrayobj.make_array(array_type)(context, builder)
        number = ir.Constant
        arrayobj.populate_array(
            array,
            data=builder.bitcast(memory, element.as_pointer()),
            shape=[number(cgutils.intp_t, n) for n in shape],
            strides=[number(cgutils.intp_t, n) for n in (shape[1] * size, size)],
            itemsize=number(cgutils.intp_t, size),
            meminfo=None,
        )
        return impl_ret_borrowed(context, builder, array_type, array._getvalue())

    return array_type(rows, columns, dtype), generate


@inlined
def dot(left: Any, left_row: int, right: Any, right_row: int) -> Any:
    """Inner product of two rows, bit by bit that of `numerics.lane_dot`. Arrays [M, D] and [N, D] of any two types."""
    width = left.shape[1]
    whole = width & ~(LANES - 1)
    lanes = broadcast(0.0)
    for column in range(0, whole, LANES):
        lanes = mul_add(load(left, left_row, column), load(right, right_row, column), lanes)
    if whole < width:
        rest = width - whole
        lanes = mul_add(load_tail(left, left_row, whole, rest), load_tail(right, right_row, whole, rest), lanes)
    return total(lanes)


def _size(numba_type: Any) -> int:
    return int(numba_type.bitwidth) // 8


def _memory_type(numba_type: Any) -> Any:
    if numba_type == types.float32:
        return _FLOAT
    if numba_type == types.uint16:
        return _HALF
    raise TypeError(f"lanes of {numba_type}: only float32 and uint16 (half precision) are allowed")


def _pointer(context: Any, builder: Any, signature: Any, arguments: Any, memory: Any) -> Any:
    """Where `array[row, column]` lies, as a pointer to `memory`; `array`, `row`, `column` are the first arguments."""
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    (distance, _) = cgutils.unpack_tuple(builder, array.strides)
    size = ir.Constant(cgutils.intp_t, _size(signature.args[0].dtype))
    offset = builder.add(builder.mul(arguments[1], distance), builder.mul(arguments[2], size))
    start = builder.bitcast(array.data, ir.IntType(8).as_pointer())
    return builder.bitcast(builder.gep(start, [offset]), memory.as_pointer())


def _widen(builder: Any, vector: Any) -> Any:
    return vector if vector.type == _FLOAT else builder.fpext(vector, _FLOAT)


def _indices(numbers: list[int]) -> Any:
    return ir.Constant(ir.VectorType(_INT, len(numbers)), numbers)


def _splat(builder: Any, value: Any) -> Any:
    vector = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    first = builder.insert_element(vector, value, _INT(0))
    return builder.shuffle_vector(first, vector, _indices([0] * LANES))


def _reduce(builder: Any, lanes: Any, combine: Any) -> Any:
    """Lanes j and j + 8 combined, then j and j + 4, j and j + 2, and the last two."""
    for half in (8, 4, 2, 1):
        low, high = (builder.shuffle_vector(lanes, lanes, _indices(list(range(i, i + half)))) for i in (0, half))
        lanes = combine(low, high)
    return builder.extract_element(lanes, _INT(0))
