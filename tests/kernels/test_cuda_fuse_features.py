"""fuse_features.cu, run on the CPU: it gives the reference's bits in every order of its threads."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from shortlist.kernels.fuse_features.columns import Columns, make_columns
from shortlist.kernels.fuse_features.gpu import SOURCE, fuse_features, plan
from shortlist.kernels.fuse_features.reference import fuse_features_reference
from shortlist.kernels.gpu import options
from tests.kernels.cuda import emulator, fake_cupy


@dataclass(frozen=True)
class Shape:
    items: str
    features: str
    dim: int
    width: int
    channels: int
    side: int
    count: int  # candidates per request


STANDARD = Shape("int8", "uint8", 64, 96, 2, 16, 37)
SHAPES = {
    "int8-uint8": STANDARD,
    "half-int8-one-candidate": Shape("float16", "int8", 8, 20, 1, 3, 1),
    "float-float-odd-columns": Shape("float32", "float32", 5, 33, 3, 0, 31),
    "half-half-no-channels": Shape("float16", "float16", 31, 31, 0, 5, 65),
}
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def problem(shape: Shape, seed: int = 0, batch: int = 2) -> tuple[Arrays, Columns]:
    rng = np.random.default_rng(seed)
    total = shape.width + shape.channels + shape.side
    table = rng.normal(size=(50, shape.width))
    items = (table * 30).astype(np.int8) if shape.items == "int8" else table.astype(shape.items)
    rows = rng.integers(-1, 50, (batch, shape.count)).astype(np.int32)
    users, channels, side = (
        rng.normal(size=size).astype(np.float32)
        for size in ((batch, shape.dim), (batch, shape.count, shape.channels), (batch, shape.side))
    )
    scale = rng.random(shape.width).astype(np.float32) / 30 if shape.items == "int8" else None
    mean, deviation, weight = rng.normal(size=total), rng.random(total) + 0.1, rng.normal(size=total)
    parameters = (part.astype(np.float32) for part in (mean, deviation, weight))
    return (items, rows, users, channels, side), make_columns(*parameters, 0.3, 4.0, shape.features, scale)


def on_gpu(cupy: fake_cupy.FakeCupy, arrays: Arrays, columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    constants = {name: cupy.asarray(getattr(columns, name)) for name in ("multiplier", "offset", "weight")}
    features, linear = fuse_features(*(cupy.asarray(a) for a in arrays), replace(columns, **constants))
    return np.asarray(features), np.asarray(linear)


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> fake_cupy.FakeCupy:
    return fake_cupy.install(monkeypatch)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_equals_the_reference_bit_by_bit_in_every_order_of_threads(shape: Shape, cupy: fake_cupy.FakeCupy) -> None:
    arrays, columns = problem(shape)
    expected = fuse_features_reference(*arrays, columns)
    for cupy.order in range(4):
        found = on_gpu(cupy, arrays, columns)
        assert [a.tobytes() for a in found] == [a.tobytes() for a in expected]


def test_arrays_of_a_request_may_have_gaps(cupy: fake_cupy.FakeCupy) -> None:
    (items, rows, users, channels, side), columns = problem(STANDARD)
    gaps = tuple(cupy.asarray(np.repeat(array, 2, axis=-1))[..., ::2] for array in (rows, users, channels, side))
    constants = {name: cupy.asarray(getattr(columns, name)) for name in ("multiplier", "offset", "weight")}
    _, linear = fuse_features(cupy.asarray(items), *gaps, replace(columns, **constants))
    assert np.array_equal(linear, fuse_features_reference(items, rows, users, channels, side, columns)[1])


def test_a_table_with_gaps_is_refused(cupy: fake_cupy.FakeCupy) -> None:
    (items, *others), columns = problem(STANDARD)
    with pytest.raises(ValueError, match=r"items: strides are .* contiguous is allowed on the GPU"):
        fuse_features(cupy.asarray(items)[::2], *(cupy.asarray(array) for array in others), columns)


def test_ties_round_to_even_and_nan_becomes_the_lower_limit(cupy: fake_cupy.FakeCupy) -> None:
    (_, rows, users, channels, side), columns = problem(STANDARD)
    columns = replace(columns, multiplier=np.full(114, 0.5, np.float32), offset=np.full(114, 128, np.float32))
    items = np.arange(50 * 96).reshape(50, 96).astype(np.int8)
    channels[0, :, 0], channels[0, :, 1] = np.nan, np.inf
    users[:] = 1
    expected, _ = fuse_features_reference(items, rows, users, channels, side, columns)
    found, _ = on_gpu(cupy, (items, rows, users, channels, side), columns)
    assert np.array_equal(found, expected)


def test_a_row_outside_of_the_table_raises_with_its_place(cupy: fake_cupy.FakeCupy) -> None:
    arrays, columns = problem(STANDARD)
    arrays[1][1, 35], arrays[1][1, 36] = 50, -2
    with pytest.raises(IndexError, match=r"rows\[1, 35\] = 50: -1 to 49 is allowed"):
        on_gpu(cupy, arrays, columns)


def test_an_array_for_refused_rows_gets_the_lowest_place_and_nothing_waits(cupy: fake_cupy.FakeCupy) -> None:
    arrays, columns = problem(STANDARD)
    arrays[1][1, 35], arrays[1][0, 36] = 50, -2
    constants = {name: cupy.asarray(getattr(columns, name)) for name in ("multiplier", "offset", "weight")}
    refused = cupy.full(1, 2**31 - 1, np.int32)
    fuse_features(*(cupy.asarray(a) for a in arrays), replace(columns, **constants), refused=refused)
    assert (int(np.asarray(refused)[0]), cupy.syncs) == (36, 0)


def test_nothing_is_read_or_written_out_of_bounds(cupy: fake_cupy.FakeCupy) -> None:
    cupy.overruns = True
    arrays, columns = problem(SHAPES["float-float-odd-columns"])
    features, _ = on_gpu(cupy, arrays, columns)
    assert np.array_equal(features, fuse_features_reference(*arrays, columns)[0])


def test_refused_rows_are_not_read(cupy: fake_cupy.FakeCupy) -> None:
    cupy.overruns = True
    arrays, columns = problem(SHAPES["float-float-odd-columns"])
    arrays[1][:] = 1_000_000
    with pytest.raises(IndexError, match=r"rows\[0, 0\] = 1000000"):
        on_gpu(cupy, arrays, columns)


def test_more_columns_than_shared_memory_holds_are_refused_with_the_number() -> None:
    with pytest.raises(ValueError, match="4000 columns of float32"):
        plan("float32", "float32", 64, 4000, 0, 0, 4)


def test_wide_rows_take_smaller_tiles() -> None:
    tiles = [plan("float16", "float32", 64, width, 2, 16, 8)["TILE"] for width in (96, 400, 1000)]
    assert tiles == [32, 16, 8]


def launch(kernel: object, arrays: Arrays, columns: Columns, constants: dict[str, int | str]) -> None:
    (items, rows, *others), tile = arrays, int(constants["TILE"])
    features = np.empty((*rows.shape, len(columns.multiplier)), columns.dtype)
    linear, refused = np.empty(rows.shape, np.float32), np.full(1, 2**31 - 1, np.int32)
    numbers = [np.float32(x) for x in (columns.bias, columns.low, columns.high, columns.zero)]
    inputs = (items, np.int32(len(items)), rows, np.int32(rows.shape[1]), *others)
    constant = (columns.multiplier, columns.offset, columns.weight, *numbers)
    grid, block = (len(rows), -(-rows.shape[1] // tile)), (4 * tile,)
    emulator.launch(kernel, grid, block, (*inputs, *constant, features, linear, refused))  # type: ignore[arg-type]


def test_each_missing_barrier_is_caught() -> None:
    arrays, columns = problem(STANDARD)
    constants = plan("int8", "uint8", 64, 96, 2, 16, 16)
    mutants = list(emulator.mutants(SOURCE.read_text(), r"__syncthreads\(\);", ""))
    assert len(mutants) == 2
    for _, text in mutants:
        with pytest.raises(emulator.KernelError, match="race"):
            launch(emulator.build(text, "fuse_features", options(**constants)), arrays, columns, constants)


def test_a_tile_that_is_too_small_is_caught() -> None:
    arrays, columns = problem(STANDARD)
    constants = plan("int8", "uint8", 64, 96, 2, 16, 16)
    text = SOURCE.read_text().replace("tile[TILE * COLUMNS + 16 / sizeof(FEATURE)]", "tile[TILE * COLUMNS - 16]")
    kernel = emulator.build(text, "fuse_features", options(**constants), overruns=True)
    with pytest.raises(emulator.KernelError, match="buffer-overflow"):
        launch(kernel, arrays, columns, constants)
