"""The GPU: tables resident in its memory, one stream for all work, one copy in and one copy out for a batch.

Models are TensorRT plans (`plans`), the index is FAISS's (`faiss_gpu`), kernels are ours. Nothing waits for the GPU
between `put` and `fetch`. All of this ran against stand-ins of CuPy, TensorRT and FAISS on the CPU; on a real GPU it
has not run yet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.bundle import Bundle
from shortlist.devices.faiss_gpu import GpuIndex, Placement
from shortlist.devices.plans import PlanScorer, open_plan
from shortlist.devices.timing import EventClock
from shortlist.kernels.arrays import import_cupy
from shortlist.kernels.dpp.gpu import dpp
from shortlist.kernels.fuse_features import Columns
from shortlist.kernels.fuse_features.gpu import fuse_features
from shortlist.kernels.gpu import NOTHING
from shortlist.kernels.mmr.gpu import mmr
from shortlist.kernels.top_k import top_k
from shortlist.kernels.top_k.gpu import CAPACITIES

ALIGNMENT = 256  # bytes: where CuPy's own arrays start, so that kernels may use their widest loads
CHECKS = ("rows of the filter", "rows of the diversifier", "relevance", "trade_off")


def open_gpu(engines: Path, placement: Placement | None = None) -> Gpu:
    """The first GPU of `placement`, with the plans in `engines`; `shortlist.devices.choose_device` has looked."""
    return Gpu(import_cupy(), engines, placement or Placement())


class Gpu:
    """A GPU as a Device: its stream, its staging memory, and what its kernels have refused."""

    name = "gpu"
    note = ""

    def __init__(self, cupy: Any, engines: Path, placement: Placement) -> None:
        self.xp = cupy
        self.engines, self.placement = engines, placement
        self._device = cupy.cuda.Device(placement.gpus[0])
        self._device.use()
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.stream.use()
        self._clock = EventClock(cupy, self.stream)
        self.now, self.seconds = self._clock.now, self._clock.seconds
        self._in, self._out = Staging(cupy), Staging(cupy)
        self._copying = False  # whether the copy in may still read its staging memory
        self._refused = cupy.full(len(CHECKS), NOTHING, np.int32)

    def keep(self, array: Any) -> Any:
        """A contiguous copy in the GPU's memory, for good."""
        array = np.ascontiguousarray(array)
        kept = self.xp.empty(array.shape, array.dtype)
        kept.set(array, stream=self.stream)  # asarray() would pin as much memory of the host, and keep it
        self.stream.synchronize()  # the host's array may go
        return kept

    def renew(self, kept: Any, array: Any, rows: slice) -> None:
        """Copy these rows, before a batch: the host waits."""
        self._device.use()
        self.stream.use()
        kept[rows].set(np.ascontiguousarray(array[rows]), stream=self.stream)
        self.stream.synchronize()

    def put(self, *arrays: Any) -> tuple[Any, ...]:
        """The arrays on the GPU, in one copy from pinned memory; CuPy works on our stream from here on."""
        self._device.use()  # of this thread: another may have loaded us
        self.stream.use()
        if self._copying:
            self.stream.synchronize()
        self._clock.start()
        starts, total = _lay_out(arrays)
        staging = self._in.bytes(total)
        for start, array in zip(starts, arrays, strict=True):
            staging[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        packed = self.xp.empty(total, np.uint8)
        packed.set(staging, stream=self.stream)
        self._copying = True
        return tuple(
            packed[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
            for start, array in zip(starts, arrays, strict=True)
        )

    def fetch(self, *arrays: Any) -> tuple[Any, ...]:
        """Copies of the arrays for the host, in one copy through pinned memory.

        Raises RuntimeError when a kernel has refused what it was given since the last call.
        """
        given = (self._refused, *arrays)
        flat = [self.xp.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in given]
        packed = self.xp.concatenate(flat)
        staging = self._out.bytes(packed.nbytes)
        packed.get(out=staging, stream=self.stream, blocking=False)
        self.stream.synchronize()
        self._copying = False
        self._clock.stop()
        ends = np.cumsum([array.nbytes for array in given])
        parts = np.split(staging[: packed.nbytes], ends[:-1])
        copies = [part.copy().view(a.dtype).reshape(a.shape) for part, a in zip(parts, given, strict=True)]
        self._check(copies[0])
        return tuple(copies[1:])

    def scorer(self, bundle: Bundle, graph: str) -> PlanScorer:
        """The plan of `graph`, its buckets captured as CUDA graphs."""
        return open_plan(self.engines, graph, self.xp, self.stream)

    def index(self, bundle: Bundle, nprobe: int | None) -> GpuIndex:
        """An index of the vectors of the bundle's items, without any room, of a kind that suits their number."""
        start, stop = bundle.document("layout")["retrieval"]
        items = len(bundle.array("item_offsets")) - 1
        return GpuIndex(bundle.array("table")[:items, start:stop], self.xp, self.stream, nprobe, self.placement)

    def warm_up(self) -> None:
        """Top K in every size: the pool's depends on who asks for what."""
        for capacity in CAPACITIES:
            top_k(self.xp.zeros((1, capacity), np.float32), 1)

    def fuse_features(self, items: Any, rows: Any, users: Any, channels: Any, side: Any, columns: Columns) -> Any:
        """The kernel, without waiting."""
        return fuse_features(items, rows, users, channels, side, columns, refused=self._refused[:1])

    def mmr(self, items: Any, rows: Any, relevance: Any, trade_off: Any, k: int, **caps: Any) -> Any:
        """The kernel, without waiting."""
        rows = self.xp.ascontiguousarray(rows)
        return mmr(items, rows, relevance, trade_off, k, refused=self._refused[1:], **caps)

    def dpp(self, items: Any, rows: Any, relevance: Any, trade_off: Any, k: int, **caps: Any) -> Any:
        """The kernel, without waiting."""
        rows = self.xp.ascontiguousarray(rows)
        return dpp(items, rows, relevance, trade_off, k, refused=self._refused[1:], **caps)

    def _check(self, refused: NDArray[np.int32]) -> None:
        """Forget what was refused, and say it."""
        if (refused == NOTHING).all():
            return
        self._refused.fill(NOTHING)
        found = [f"{what} at {place}" for what, place in zip(CHECKS, refused, strict=True) if place != NOTHING]
        raise RuntimeError(f"the GPU's kernels refused {', '.join(found)}; the bundle's parts do not fit together")


class Staging:
    """Pinned host memory, which the GPU copies from and to without the CPU; it grows to the largest batch seen."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._bytes: NDArray[np.uint8] = np.empty(0, np.uint8)

    def bytes(self, count: int) -> NDArray[np.uint8]:
        """The first `count` bytes."""
        if count > len(self._bytes):
            memory = self._cupy.cuda.alloc_pinned_memory(2 * count)
            self._bytes = np.frombuffer(memory, np.uint8, 2 * count)
        return self._bytes[:count]


def _lay_out(arrays: tuple[Any, ...]) -> tuple[list[int], int]:
    """Where each array starts in one buffer, and how long that is."""
    starts, total = [], 0
    for array in arrays:
        starts.append(total)
        total += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    return starts, total
