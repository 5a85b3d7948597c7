"""Stage 1: from the whole catalogue to a few hundred candidates.

Two channels are fused: the towers' inner product (FAISS) and sparse item-item matrices (a few thousand additions).
Score of an item = u·v + Σ_channels Σ_j decay^age_j · B[h_j, item], in units fixed by training. FAISS only proposes;
every proposal is scored again from the item table, so that quantised indexes and batch sizes change no score.
A small catalogue needs no proposals: every item is scored.
"""

from __future__ import annotations

from collections import defaultdict

import faiss
import numpy as np
from numba import njit
from numpy.typing import NDArray

from shortlist.bundle import Bundle
from shortlist.catalog import Catalog
from shortlist.types import Candidates, Float32, Int32, Int64, UserBatch

EXACT_UP_TO = 4_000  # items; up to here every item is scored, so that the fused order is exact


class Retrieve:
    """FAISS and the item-item channels behind one call. Not thread-safe: it owns scratch of the catalogue's length."""

    def __init__(self, bundle: Bundle, catalog: Catalog) -> None:
        settings = bundle.document("retrieve")
        self.vectors = catalog.part("retrieval")
        self.index = faiss.read_index(str(bundle.file("index.faiss")), faiss.IO_FLAG_MMAP)
        if settings["nprobe"]:
            faiss.extract_index_ivf(self.index).nprobe = int(settings["nprobe"])
        self.channels = [
            (*(bundle.array(f"linear{i}_{part}") for part in ("indptr", "indices", "values")), np.float32(decay))
            for i, decay in enumerate(settings["linear_decays"])
        ]
        self._everything = np.arange(len(catalog)) if len(catalog) <= EXACT_UP_TO else None
        self._linear = np.zeros(len(catalog), np.float32)
        self._state = np.zeros(len(catalog), np.uint8)

    def __call__(self, users: UserBatch, depth: int) -> Candidates:
        """The `depth` best rows of each of B users, masked rows left out."""
        rows = np.full((len(users), depth), -1, np.int32)
        scores = np.full((len(users), depth), -np.inf, np.float32)
        channels = np.zeros((len(users), depth, 2), np.float32)
        for b, near in enumerate(self._proposals(users, depth)):
            touched = self._add_linear(users.history[b, : users.lengths[b]])
            floor = self._floor(touched, len(near))
            pool, parts, total = _pool(
                near, touched, users.masked[b], floor, users.vectors[b], self.vectors, self._linear, self._state
            )
            best = np.argsort(-total)[:depth]
            best = best[np.isfinite(total[best])]  # a damaged vector costs only its own
            rows[b, : len(best)] = pool[best]
            scores[b, : len(best)] = total[best]
            channels[b, : len(best)] = parts[best]
        return Candidates(rows, scores, channels)

    def all_scores(self, users: UserBatch) -> Float32:
        """Scores of the whole catalogue [B, N]: for evaluation, not for requests."""
        scores: Float32 = users.vectors @ self.vectors.T
        for row, history, length in zip(scores, users.history, users.lengths, strict=True):
            for channel in self.channels:
                _add(history[:length], *channel, row)
        return scores

    def _proposals(self, users: UserBatch, depth: int) -> list[Int64]:
        """For each user the nearest rows, -1 where there are fewer, with spare ones for those that will be masked.

        Users of like numbers search together, so that a long list to exclude is no burden on the others.
        """
        if self._everything is not None:
            return [self._everything] * len(users)
        wanted = [min(len(self.vectors), depth + len(np.unique(masked))) for masked in users.masked]
        alike: dict[int, list[int]] = defaultdict(list)
        for b, number in enumerate(wanted):
            alike[number.bit_length()].append(b)
        proposals: dict[int, Int64] = {}
        for members in alike.values():
            _, near = self.index.search(users.vectors[members], max(wanted[b] for b in members))
            proposals.update((b, rows[: wanted[b]]) for b, rows in zip(members, near, strict=True))
        return [proposals[b] for b in range(len(users))]

    def _floor(self, touched: Int32, wanted: int) -> float:
        """A linear score that at least `wanted` touched rows reach; infinite where every item is proposed anyway."""
        if self._everything is not None:
            return np.inf
        if len(touched) <= wanted:
            return -np.inf
        return float(np.partition(self._linear[touched], -wanted)[-wanted])

    def _add_linear(self, history: Int32) -> Int32:
        """Add every channel's scores into the scratch; returns the rows touched (a row may stand once a channel)."""
        touched = [_add(history, *channel, self._linear) for channel in self.channels]
        return np.concatenate(touched) if touched else np.empty(0, np.int32)


@njit(nogil=True)
def _add(
    history: Int32,  # [L] oldest first
    indptr: Int64,
    indices: Int32,
    values: Float32,
    decay: np.float32,
    linear: Float32,  # [N] added to
) -> Int32:
    total = 0
    for item in history:
        total += indptr[item + 1] - indptr[item]
    touched = np.empty(total, np.int32)
    count = 0
    weight = np.float32(1)
    for age in range(len(history)):
        item = history[len(history) - 1 - age]
        for i in range(indptr[item], indptr[item + 1]):
            row = indices[i]
            if linear[row] == 0:
                touched[count] = row
                count += 1
            linear[row] += weight * values[i]
        weight *= decay
    return touched[:count]


@njit(nogil=True, fastmath={"contract", "reassoc", "nsz"})
def _pool(
    near: Int64,  # [M] proposals of FAISS, -1 where it found fewer
    touched: Int32,  # [T] rows with a linear score
    masked: Int32,
    floor: float,  # touched rows need at least this linear score
    vector: Float32,  # [D]
    vectors: Float32,  # [N, D]
    linear: Float32,  # [N] scratch, zeroed again
    state: NDArray[np.uint8],  # [N] scratch, zeroed again
) -> tuple[Int32, Float32, Float32]:
    """Every proposed row once, masked ones left out: [P], its tower and linear score [P, 2], and their sum [P]."""
    pool = np.empty(len(near) + len(touched), np.int32)
    count = 0
    for row in masked:
        state[row] = 1
    for row in near:
        if row >= 0 and state[row] == 0:
            state[row] = 1
            pool[count] = row
            count += 1
    for row in touched:
        if state[row] == 0 and linear[row] >= floor:
            state[row] = 1
            pool[count] = row
            count += 1
    parts = np.empty((count, 2), np.float32)
    total = np.empty(count, np.float32)
    for i in range(count):
        dot = np.float32(0)
        for d in range(len(vector)):
            dot += vector[d] * vectors[pool[i], d]
        parts[i, 0] = dot
        parts[i, 1] = linear[pool[i]]
        total[i] = dot + linear[pool[i]]
        state[pool[i]] = 0
    for row in masked:
        state[row] = 0
    for row in touched:
        linear[row] = 0
    return pool[:count], parts, total
