"""The work of `bench_gpu`: for each kernel and shape its input, our launch, what the reference says, and the rivals.

Launches write into arrays that exist already and wait for nothing, as in a server. Timing is `bench_gpu`'s part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.dlpack import from_dlpack

from shortlist.kernels import gpu_rivals, roofline
from shortlist.kernels.dpp.gpu import dpp
from shortlist.kernels.dpp.reference import dpp_reference
from shortlist.kernels.fuse_features.columns import Columns, make_columns
from shortlist.kernels.fuse_features.gpu import fuse_features
from shortlist.kernels.fuse_features.reference import fuse_features_reference
from shortlist.kernels.gpu import new_refused
from shortlist.kernels.mmr.gpu import mmr
from shortlist.kernels.mmr.reference import mmr_reference
from shortlist.kernels.top_k.gpu import plan as top_k_plan
from shortlist.kernels.top_k.gpu import top_k
from shortlist.kernels.top_k.reference import top_k_reference

TABLE = 1_000_000  # items: far more than any cache holds
SELECTIONS: Mapping[str, Any] = {
    "mmr": (mmr, mmr_reference, roofline.mmr, gpu_rivals.mmr_arrays, gpu_rivals.mmr_torch),
    "dpp": (dpp, dpp_reference, roofline.dpp, gpu_rivals.dpp_arrays, gpu_rivals.dpp_torch),
}


@dataclass(frozen=True)
class Job:
    """One kernel on one input. `ours`, `expected` and each of `rivals` give a tuple of arrays."""

    name: str
    work: roofline.Work
    ours: Callable[[], tuple[Any, ...]]
    expected: Callable[[], tuple[NDArray[Any], ...]]
    rivals: Mapping[str, Callable[[], tuple[Any, ...]]]


Build = Callable[[Any, int], Job]  # (cupy, items in the table) -> the job


def selection(
    kernel: str, batch: int, count: int, dim: int, k: int, dtype: str, missing: float, cupy: Any, table: int
) -> Job:
    """MMR or DPP with unit vectors."""
    launch, reference, work, arrays, tensors = SELECTIONS[kernel]
    rng = np.random.default_rng(batch)
    vectors = rng.standard_normal((table, dim), np.float32)
    items = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)
    inputs = (items, _rows(rng, batch, count, table, missing), rng.random((batch, count), np.float32))
    given: tuple[Any, ...] = (*inputs, rng.random(batch, np.float32))
    device = tuple(cupy.asarray(array) for array in given)
    kept: dict[str, Any] = {"out": cupy.empty((batch, k), np.int32), "refused": new_refused(3)}
    if kernel == "dpp":
        kept["factor"] = cupy.empty((batch, min(k, count), count), np.float32)
    return Job(
        name=f"{kernel} B={batch} N={count} D={dim} K={k} {dtype}",
        work=work(batch, count, dim, k, items.itemsize),
        ours=lambda: (launch(*device, k, **kept),),
        expected=lambda: (reference(*given, k),),
        rivals=_rivals(device, lambda *given: (tensors(*given, k),), lambda: (arrays(cupy, *device, k),)),
    )


@dataclass(frozen=True)
class Features:
    """What the student's input is made of: columns of the item, of which `dim` meet the user, channels, side; types."""

    count: int
    width: int
    dim: int
    channels: int
    side: int
    items: str
    features: str


def fusion(shape: Features, batch: int, missing: float, cupy: Any, table: int) -> Job:
    """The student's input."""
    given, columns = _features(shape, batch, missing, table)
    stacked = cupy.asarray(np.stack([columns.multiplier, columns.offset, columns.weight]))
    there = replace(columns, multiplier=stacked[0], offset=stacked[1], weight=stacked[2])
    here, device = [*given, columns], [cupy.asarray(array) for array in given]
    ours, theirs = [*device, there], [*device, stacked]
    linear = cupy.empty((batch, shape.count), np.float32)
    out, refused = (cupy.empty((*linear.shape, stacked.shape[1]), shape.features), linear), new_refused(1)
    sizes = (shape.count, shape.width, shape.dim, shape.channels, shape.side)
    return Job(
        name=f"fuse_features B={batch} N={sizes[0]} W={sizes[1]} D={sizes[2]} C={sizes[3]} S={sizes[4]} {shape.items}",
        work=roofline.fuse_features(batch, *sizes, given[0].itemsize, out[0].itemsize),
        ours=lambda: fuse_features(*ours, out=out, refused=refused),
        expected=lambda: fuse_features_reference(*here),
        rivals=_rivals(
            theirs,
            in_torch=partial(gpu_rivals.fuse_torch, columns),
            in_cupy=lambda: gpu_rivals.fuse_arrays(cupy, *ours),
        ),
    )


def _features(shape: Features, batch: int, missing: float, table: int) -> tuple[tuple[Any, ...], Columns]:
    rng, total = np.random.default_rng(batch), shape.width + shape.channels + shape.side
    items = rng.integers(-127, 128, (table, shape.width), np.int8)
    rows = _rows(rng, batch, shape.count, table, missing)
    sizes = ((batch, shape.dim), (batch, shape.count, shape.channels), (batch, shape.side))
    others = [rng.standard_normal(size, np.float32) for size in sizes]
    mean, deviation, weight = (rng.random(total, np.float32) + np.float32(0.5) for _ in range(3))
    scale = np.full(shape.width, 1 / 127, np.float32) if shape.items == "int8" else None
    columns = make_columns(mean, deviation, weight, 0.1, 4.0, shape.features, scale)
    stored = items if shape.items == "int8" else (items / np.float32(127)).astype(shape.items)
    return (stored, rows, *others), columns


def ranking(batch: int, count: int, k: int, missing: float, cupy: Any, table: int) -> Job:
    """Top K; `missing` values are NaN."""
    rng, constants = np.random.default_rng(batch), top_k_plan(count)
    values = rng.random((batch, count), np.float32)
    values[rng.random((batch, count)) < missing] = np.nan
    device, out = cupy.asarray(values), cupy.empty((batch, k), np.int32)
    return Job(
        name=f"top_k B={batch} N={count} K={k}",
        work=roofline.top_k(batch, count, k, constants["SLICE"], constants["PARTS"]),
        ours=lambda: (top_k(device, k, out),),
        expected=lambda: (top_k_reference(values, k),),
        rivals=_rivals(
            [device],
            in_torch=lambda tensor: (gpu_rivals.top_k_torch(tensor, k),),
            in_cupy=lambda: (gpu_rivals.top_k_arrays(cupy, device, k),),
        ),
    )


def _rows(rng: np.random.Generator, batch: int, count: int, table: int, missing: float) -> NDArray[np.int32]:
    rows = rng.integers(0, table, (batch, count), np.int32)
    rows[rng.random((batch, count)) < missing] = -1
    return rows


def _rivals(
    device: Sequence[Any], in_torch: Callable[..., Any], in_cupy: Callable[[], Any]
) -> dict[str, Callable[[], Any]]:
    """The rivals that can run here: torch may have been built without CUDA."""
    rivals = {"cupy": in_cupy}
    if torch.cuda.is_available():
        tensors = [from_dlpack(array) for array in device]
        rivals["torch"] = lambda: in_torch(*tensors)
    return rivals


STANDARD: tuple[Build, ...] = (
    *(partial(selection, name, batch, 100, 64, 10, "float16", 0.0) for name in SELECTIONS for batch in (16, 64)),
    *(partial(fusion, Features(500, 96, 64, 2, 16, "int8", "uint8"), batch, 0.0) for batch in (16, 64)),
    partial(ranking, 16, 500, 100, 0.0),
    partial(ranking, 16, 8192, 100, 0.0),
)
AWKWARD: tuple[Build, ...] = (
    *(partial(selection, name, 3, 33, 31, 40, "float32", 0.2) for name in SELECTIONS),
    *(partial(selection, name, 2, 1024, 256, 20, "float16", 0.2) for name in SELECTIONS),
    partial(fusion, Features(31, 33, 5, 3, 0, "float32", "float32"), 3, 0.2),
    partial(fusion, Features(65, 20, 8, 0, 5, "float16", "int8"), 3, 0.2),
    partial(ranking, 3, 33, 40, 0.2),
    partial(ranking, 2, 8191, 8191, 0.2),
)
