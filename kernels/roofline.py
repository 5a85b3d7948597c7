"""What a launch of each GPU kernel must cost at least, on paper: bytes, operations, and the chain of steps that wait.

Most of these kernels are too small to be limited by a GPU's bandwidth: what counts is how often one step must wait for
another. So each job states its chain, and each machine how long a wait takes. `bench_gpu` measures how true it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, log2

LANES = 128  # float32 operations that one multiprocessor issues per cycle
FROM_CACHE = 64  # bytes that one multiprocessor receives per cycle
EMPTY_LAUNCH = 2.0  # microseconds that device events see of a kernel which does nothing; bench_gpu measures it


@dataclass(frozen=True)
class Machine:
    """A GPU at its boost clock, by its data sheet. Waits, in cycles, are round assumptions, not measured."""

    name: str
    multiprocessors: int
    gigahertz: float
    bandwidth: float  # bytes per second of its memory
    memory: int  # cycles until a load from memory arrives
    l2: int = 270
    l1: int = 40
    shared: int = 30
    barrier: int = 30
    shuffle: int = 25  # also a reduction over a warp
    arithmetic: int = 5


MACHINES = {
    "H100 SXM": Machine("H100 SXM", 132, 1.98, 3.35e12, 600),
    "H100 PCIe": Machine("H100 PCIe", 114, 1.755, 2.0e12, 600),
    "L4": Machine("L4", 58, 2.04, 3.0e11, 650),
}


@dataclass(frozen=True)
class Work:
    """What one launch does."""

    bytes: int  # read from and written to memory, each once
    operations: int  # float32 products, sums, comparisons and conversions
    blocks: int
    chain: Mapping[str, int]  # how many waits of each kind follow on one another, in one block


@dataclass(frozen=True)
class Floor:
    """The least time of a launch, and what takes longest beside the launch itself: bandwidth, operations or waits."""

    microseconds: float
    bound: str


def floor(work: Work, machine: Machine, launch: float = EMPTY_LAUNCH) -> Floor:
    """An empty launch, and the longest of: moving the bytes, the busiest multiprocessor's operations, the chain."""
    cycle = 1e-3 / machine.gigahertz  # microseconds
    blocks_each = ceil(work.blocks / machine.multiprocessors)
    share = blocks_each / work.blocks
    parts = {
        "bandwidth": max(work.bytes / machine.bandwidth * 1e6, share * work.bytes / FROM_CACHE * cycle),
        "operations": share * work.operations / LANES * cycle,
        "waits": cycle * sum(count * getattr(machine, kind) for kind, count in work.chain.items()),
    }
    bound = max(parts, key=lambda part: parts[part])
    return Floor(launch + parts[bound], bound)


def fuse_features(
    batch: int, count: int, width: int, dim: int, channels: int, side: int, item_bytes: int, feature_bytes: int
) -> Work:
    """A gather, and two products and sums a column: after the row index, all of a row's columns are loaded at once."""
    columns = width + channels + side
    candidate = width * item_bytes + 4 + 4 * channels + columns * feature_bytes + 4
    once = 4 * (dim + side)
    tiles = ceil(count / 32)
    return Work(
        bytes=batch * (count * candidate + once) + 12 * columns,
        operations=batch * count * (9 * width + 8 * channels),
        blocks=batch * tiles,
        chain={"memory": 2, "l2": 1, "barrier": 2, "shared": 3, "shuffle": 2, "arithmetic": 10 + 4 * ceil(width / 16)},
    )


def mmr(batch: int, count: int, dim: int, k: int, item_bytes: int) -> Work:
    """K rounds of: the last pick's similarities (from the second round on), then the best of a block.

    The candidates' rows come from memory in the second round, and from the cache beside the multiprocessor afterwards.
    """
    return Work(
        bytes=batch * (count * (dim * item_bytes + 8) + 4 + 4 * k),
        operations=batch * count * ((k - 1) * _per_dot(dim, item_bytes) + 12 * k),
        blocks=batch,
        chain=_greedy_chain(dim, k, item_bytes),
    )


def dpp(batch: int, count: int, dim: int, k: int, item_bytes: int) -> Work:
    """As `mmr`, with similarities from the first round on, and the factor's rows: the newest from L2, two at a time."""
    chain = _greedy_chain(dim, k, item_bytes)
    earlier = sum(ceil(slot / 2) for slot in range(1, k - 1))
    chain |= {"l2": k - 1, "l1": chain["l1"] + earlier, "arithmetic": chain["arithmetic"] + 4 * earlier + 60 * k}
    return Work(
        bytes=batch * (count * (dim * item_bytes + 8) + 4 + 4 * k + 4 * (k - 1) * count),
        operations=batch * count * (k * (_per_dot(dim, item_bytes) + 60) + (k - 1) * (k - 2)),
        blocks=batch,
        chain=chain,
    )


def score_pool(batch: int, count: int, dim: int) -> Work:
    """A gather and a dot product: after the row index a thread's loads follow in pairs, then two exchanges of sums."""
    return Work(
        bytes=batch * (count * (4 * dim + 16) + 4 * dim),
        operations=batch * count * (2 * dim + 24),
        blocks=batch * ceil(count / 64),
        chain={"memory": 1 + ceil(dim / 32), "shuffle": 2, "arithmetic": 8 * ceil(dim / 16)},
    )


def top_k(batch: int, count: int, k: int, slice_size: int, parts: int) -> Work:
    """Every value is compared with 1,024 others, the K best with all; `slice_size` to a block, `parts` threads each."""
    slices, certain = ceil(count / slice_size), min(count, 1024)
    return Work(
        bytes=4 * batch * (count + k),
        operations=2 * batch * (slices * slice_size * certain + k * (count - certain)),
        blocks=batch * slices,
        chain={
            "memory": 1,
            "l2": 1,
            "barrier": 1,
            "shared": 2,
            "shuffle": int(log2(parts)),
            "arithmetic": ceil(certain / parts),
        },
    )


def _per_dot(dim: int, item_bytes: int) -> int:
    conversions = 0 if item_bytes == 4 else 2
    return dim * (2 + conversions)


def _greedy_chain(dim: int, k: int, item_bytes: int) -> dict[str, int]:
    """Waits of K rounds: state, rows and their sum for a similarity; four reductions and a barrier for the best."""
    return {
        "memory": 2,  # row indices, then the rows when they are first read
        "l2": 1,  # the last store
        "l1": k - 2,
        "shared": 3 * k,
        "barrier": k + 1,
        "shuffle": (5 + int(log2(item_bytes))) * k,
        "arithmetic": (k - 1) * (2 * ceil(dim / 16) + 8) + 8 * k,
    }
