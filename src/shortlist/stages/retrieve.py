"""Stage 1: from the whole catalogue to a few hundred candidates.

Two channels are fused: the towers' inner product (FAISS) and sparse item-item matrices (a few thousand additions).
Score of an item = u·v + Σ_channels Σ_j decay^age_j · B[h_j, item], in units fixed by training. FAISS only proposes;
every proposal is scored again from the item table, so that quantised indexes and batch sizes change no score.
A small catalogue needs no proposals: every item is scored, and so are the items that a strict predicate leaves. Items
that are newer than the index are compared with the user's vector one by one, and propose themselves beside it. On a GPU
the item-item channels stay with the host, and the rest is `shortlist.stages.pool`'s.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numba import njit
from numpy.typing import NDArray

from shortlist.bitmap import contains, rows_of
from shortlist.bundle import Bundle
from shortlist.catalog import Catalog
from shortlist.devices import Device
from shortlist.devices.cpu import Cpu
from shortlist.kernels.fuse_features.encoding import prefetch
from shortlist.kernels.lanes import dot
from shortlist.kernels.top_k.cpu import best_positions
from shortlist.stages.pool import Brought, Sparse, bring, choose
from shortlist.types import Candidates, Eligible, Float32, Int32, Int64, UserBatch

AHEAD, LINE = 8, 64  # rows asked of memory before they are needed, bytes of a cache line
EXACT_UP_TO = 4_000  # items; up to here every item is scored, so that the fused order is exact


class Retrieve:
    """FAISS and the item-item channels behind one call. Not thread-safe: it owns scratch of the catalogue's length."""

    def __init__(self, bundle: Bundle, catalog: Catalog, device: Device | None = None) -> None:
        self._device = device or Cpu()
        settings = bundle.document("retrieve")
        self.vectors = catalog.part("retrieval")
        self.nprobe = int(settings["nprobe"]) if settings["nprobe"] else None  # None: the index has no cells
        self.index = self._device.index(bundle, self.nprobe)
        self._spare = float(settings.get("spare", 1))  # proposals for each that is wanted: the index errs
        self.channels = [
            (*(bundle.array(f"linear{i}_{part}") for part in ("indptr", "indices", "values")), np.float32(decay))
            for i, decay in enumerate(settings["linear_decays"])
        ]
        self._items = len(catalog)
        self._everything = np.arange(self._items) if self._items <= EXACT_UP_TO else None
        self._linear = np.zeros(len(self.vectors), np.float32)
        self._state = np.zeros(len(self.vectors), np.uint8)

    def bring(self, users: UserBatch, depth: int, diversity: Float32) -> tuple[UserBatch, Float32]:
        """What the stages on the device need of a batch, there. On the CPU everything already is."""
        if self._device.name == "cpu":
            return users, diversity
        return bring(self._device, users, self._sparse(users, depth), len(self.vectors), diversity)

    def __call__(self, users: UserBatch, depth: int, share: float = 1.0) -> Candidates:
        """The `depth` best rows of each of B users, masked rows left out; only `share` of the cells are searched."""
        nprobe = max(1, round(share * self.nprobe)) if self.nprobe and share != 1 else None
        if isinstance(users, Brought):
            everything = self._everything is not None
            return choose(self._device.xp, users, self.vectors, None if everything else self.index, depth, nprobe)
        shape = len(users), depth
        found = Candidates(np.empty(shape, np.int32), np.empty(shape, np.float32), np.empty((*shape, 2), np.float32))
        for b, near in enumerate(self._proposals(users, depth, nprobe)):
            history = users.history[b, : users.lengths[b]]
            self._add_linear(history, self._linear)
            touched = self._touched(history)
            allowed = _allowed(touched, users.eligible[b]) if users.eligible else touched
            floor = self._floor(allowed, len(near))
            if users.eligible:
                near = self._with_added(near, users.vectors[b], users.eligible[b], depth + len(users.masked[b]))
            pool = _pool(near, allowed, users.masked[b], floor, self._linear, self._state)
            _choose(pool, b, users.vectors, self.vectors, self._linear, found.rows, found.scores, found.channels)
            _clear(self._linear, near if self._everything is None else self._everything, touched)
        return found

    def prepare(self, eligible: Eligible) -> None:
        """Decide, by what it costs, whether all of these rows are scored or the index is searched for the best."""
        if self._everything is not None or not self.index.prepare(eligible):
            eligible.rows = rows_of(eligible.bits, eligible.count)

    def all_scores(self, users: UserBatch) -> Float32:
        """Scores of the whole catalogue [B, N]: for evaluation, not for requests."""
        scores: Float32 = users.vectors @ self.vectors.T
        for row, history, length in zip(scores, users.history, users.lengths, strict=True):
            self._add_linear(history[:length], row)
        return scores

    def _proposals(self, users: UserBatch, depth: int, nprobe: int | None) -> list[Int64]:
        """For each user the nearest eligible rows, -1 where there are fewer, with spare ones for those to be masked.

        Users of like numbers and one predicate search together, so that a long list to exclude is no burden on others.
        """
        eligible = users.eligible or (None,) * len(users)
        if self._everything is not None:
            return [self._everything if e is None else _scored(e) for e in eligible]
        wanted = self._wanted(users, depth)
        proposals: dict[int, Int64] = {}
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for b, (number, e) in enumerate(zip(wanted, eligible, strict=True)):
            if e is not None and e.rows is not None:
                proposals[b] = e.rows
            else:
                alike[number.bit_length(), id(e)].append(b)
        for members in alike.values():
            asked = {b: min(self._items, round(self._spare * wanted[b])) for b in members}
            count, among = max(asked.values()), eligible[members[0]]
            near = self.index.search(users.vectors[members], count, nprobe=nprobe, eligible=among)
            proposals.update((b, rows[: asked[b]]) for b, rows in zip(members, near, strict=True))
        return [proposals[b] for b in range(len(users))]

    def _with_added(self, near: Int64, vector: Float32, eligible: Eligible | None, count: int) -> Int64:
        """`near`, and the `count` nearest of the eligible rows that the index does not know."""
        if eligible is None or eligible.added is None:
            return near
        added = eligible.added
        if len(added) > count:
            scores = self.vectors[added[0] : added[-1] + 1] @ vector
            added = added[np.argpartition(-scores[added - added[0]], count)[:count]]
        return np.concatenate([near, added])

    def _wanted(self, users: UserBatch, depth: int) -> list[int]:
        """Proposals that each user needs for `depth` of them to be left."""
        return [min(self._items, depth + len(np.unique(masked))) for masked in users.masked]

    def _sparse(self, users: UserBatch, depth: int) -> list[Sparse]:
        """The item-item channels of each user by themselves, for a device that does the rest."""
        return [self._sparse_of(users, b, wanted) for b, wanted in enumerate(self._wanted(users, depth))]

    def _sparse_of(self, users: UserBatch, b: int, wanted: int) -> Sparse:
        history, linear = users.history[b, : users.lengths[b]], self._linear
        self._add_linear(history, linear)
        listed = self._listed(history)
        touched, first = np.unique(listed, return_index=True)
        proposed = np.empty(0, np.int32)
        if self._everything is None:
            once = listed[np.sort(first)]  # in the order in which the CPU's loop sees them
            proposed = once[linear[once] >= self._floor(listed, wanted)]
        found = Sparse(wanted, touched, linear[touched], proposed, np.unique(users.masked[b]))
        linear[touched] = 0
        return found

    def _add_linear(self, history: Int32, linear: Float32) -> None:
        for channel in self.channels:
            _add(history, *channel, linear)

    def _touched(self, history: Int32) -> Int32:
        """Every row with a linear score (it may stand once a channel); none where all items are proposed anyway."""
        return self._listed(history) if self._everything is None else np.empty(0, np.int32)

    def _listed(self, history: Int32) -> Int32:
        listed = [_neighbours(history, indptr, indices, self._state) for indptr, indices, _, _ in self.channels]
        return np.concatenate(listed) if listed else np.empty(0, np.int32)

    def _floor(self, touched: Int32, wanted: int) -> float:
        """A linear score that at least `wanted` touched rows reach."""
        if len(touched) <= wanted:
            return -np.inf
        return float(np.partition(self._linear[touched], -wanted)[-wanted])


def _scored(eligible: Eligible) -> Int64:
    """The rows of a predicate that are all scored."""
    if eligible.rows is None:
        raise ValueError("a predicate was not prepared")
    return eligible.rows


def _allowed(touched: Int32, eligible: Eligible | None) -> Int32:
    """The eligible ones of `touched`; none where all that are eligible are proposed anyway."""
    if eligible is None:
        return touched
    return touched[contains(eligible.bits, touched)] if eligible.rows is None else touched[:0]


@njit(nogil=True, no_cfunc_wrapper=True)
def _add(
    history: Int32,  # [L] oldest first
    indptr: Int64,
    indices: Int32,
    values: Float32,
    decay: np.float32,
    linear: Float32,  # [N] added to
) -> None:
    weight = np.float32(1)
    for age in range(len(history)):
        item = history[len(history) - 1 - age]
        for i in range(indptr[item], indptr[item + 1]):
            linear[np.uint32(indices[i])] += weight * values[i]  # unsigned: spares Numba the test for negative indices
        weight *= decay


@njit(nogil=True, no_cfunc_wrapper=True)
def _neighbours(history: Int32, indptr: Int64, indices: Int32, state: NDArray[np.uint8]) -> Int32:
    """The rows that one channel adds to, each once: [T]. `state` [N] is scratch, zeroed again."""
    total = 0
    for item in history:
        total += indptr[item + 1] - indptr[item]
    touched = np.empty(total, np.int32)
    count = 0
    for item in history:
        for i in range(indptr[item], indptr[item + 1]):
            row = indices[i]
            touched[count] = row
            count += state[np.uint32(row)] == 0
            state[np.uint32(row)] = 1
    for row in touched[:count]:
        state[row] = 0
    return touched[:count]


@njit(nogil=True, no_cfunc_wrapper=True)
def _pool(
    near: Int64,  # [M] proposals of FAISS, -1 where it found fewer
    touched: Int32,  # [T] rows with a linear score
    masked: Int32,
    floor: float,  # touched rows need at least this linear score
    linear: Float32,  # [N]
    state: NDArray[np.uint8],  # [N] scratch, zeroed again
) -> Int32:
    """Every proposed row once, masked ones left out: [P]."""
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
    for row in pool[:count]:
        state[row] = 0
    for row in masked:
        state[row] = 0
    return pool[:count]


@njit(nogil=True, no_cfunc_wrapper=True)
def _choose(
    pool: Int32,  # [P]
    b: int,
    users: Float32,  # [B, D]
    vectors: Float32,  # [N, D]
    linear: Float32,  # [N]
    rows: Int32,  # [B, K] written to, as are the next two
    scores: Float32,  # [B, K]
    channels: Float32,  # [B, K, 2]
) -> None:
    """The best of the pool for user `b`, with their scores. A damaged vector costs only its own items."""
    tower = np.empty(len(pool), np.float32)
    total = np.empty(len(pool), np.float32)
    for i in range(len(pool)):
        if i + AHEAD < len(pool):
            for byte in range(0, 4 * vectors.shape[1], LINE):
                prefetch(vectors, pool[i + AHEAD], byte)
        tower[i] = dot(users, b, vectors, pool[i])
        score = tower[i] + linear[pool[i]]
        total[i] = score if np.isfinite(score) else -np.inf
    best_positions(total, rows[b])
    for slot in range(rows.shape[1]):
        i = rows[b, slot]
        found = i >= 0 and total[i] > -np.inf
        rows[b, slot] = pool[i] if found else -1
        scores[b, slot] = total[i] if found else -np.inf
        channels[b, slot, 0] = tower[i] if found else 0
        channels[b, slot, 1] = linear[pool[i]] if found else 0


@njit(nogil=True, no_cfunc_wrapper=True)
def _clear(linear: Float32, near: Int64, touched: Int32) -> None:
    """Zero what a request added: at every row that was touched, and those are proposed where not listed."""
    for row in near:
        if row >= 0:
            linear[row] = 0
    for row in touched:
        linear[row] = 0
