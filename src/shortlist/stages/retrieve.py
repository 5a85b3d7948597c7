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

from shortlist.bitmap import contains, everything, rows_of
from shortlist.bundle import Bundle
from shortlist.catalog import Catalog
from shortlist.devices import Device
from shortlist.devices.cpu import Cpu
from shortlist.stages.allowed import Limits
from shortlist.stages.fusion import add, choose_from, clear, distinct, floor, neighbours, pool_of
from shortlist.stages.pool import MOST_NEAR, Brought, Sparse, bring, choose, warm_up
from shortlist.types import Candidates, Eligible, Float32, Int32, Int64, UserBatch

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
        self._proposing = self.index if self._everything is None else None
        self._whole = Eligible(everything(self._items), self._items)  # stands for no predicate among others
        self._linear = np.zeros(len(self.vectors), np.float32)
        self._state = np.zeros(len(self.vectors), np.uint8)

    def bring(self, users: UserBatch, depth: int, diversity: Float32) -> tuple[UserBatch, Float32]:
        """What the stages on the device need of a batch, there. On the CPU everything already is."""
        if self._device.name == "cpu":
            return users, diversity
        sparse, rows = self._sparse(users, depth), len(self.vectors)
        allowed = [e or self._whole for e in users.eligible]
        limits = Limits(allowed, [s.wanted == 0 for s in sparse], self._items, rows) if allowed else None
        return bring(self._device, users, sparse, rows, diversity, limits)

    def __call__(self, users: UserBatch, depth: int, share: float = 1.0) -> Candidates:
        """The `depth` best rows of each of B users, masked rows left out; only `share` of the cells are searched."""
        nprobe = max(1, round(share * self.nprobe)) if self.nprobe and share != 1 else None
        if isinstance(users, Brought):
            return choose(self._device.xp, users, self.vectors, self._proposing, depth, nprobe, self._items)
        shape = len(users), depth
        found = Candidates(np.empty(shape, np.int32), np.empty(shape, np.float32), np.empty((*shape, 2), np.float32))
        for b, near in enumerate(self._proposals(users, depth, nprobe)):
            history = users.history[b, : users.lengths[b]]
            self._add_linear(history, self._linear)
            allowed = touched = self._touched(history)
            proposed = len(near)
            if users.eligible:
                allowed = _allowed(touched, users.eligible[b])
                near = self._with_added(near, users.vectors[b], users.eligible[b], depth + len(users.masked[b]))
            pool = pool_of(near, proposed, allowed, users.masked[b], self._linear, self._state)
            choose_from(pool, b, users.vectors, self.vectors, self._linear, found.rows, found.scores, found.channels)
            clear(self._linear, touched, self._everything is not None)
        return found

    def prepare(self, eligible: Eligible) -> None:
        """Decide, by what it costs, whether all of these rows are scored or the index is searched for the best."""
        if self._device.name != "cpu":
            return  # decided request by request; the bits go there with the first batch that needs them
        if self._everything is not None or not self.index.prepare(eligible):
            eligible.rows = rows_of(eligible.bits, eligible.count)

    def warm_up(self) -> None:
        """Have a device compile what few requests need: the search among eligible rows."""
        if self._device.name != "cpu":
            warm_up(self._device, self.vectors, self._proposing, self._items, self._whole)

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
        return [min(self._items, depth + distinct(masked, self._state)) for masked in users.masked]

    def _sparse(self, users: UserBatch, depth: int) -> list[Sparse]:
        """The item-item channels of each user by themselves, for a device that does the rest."""
        eligible = users.eligible or (None,) * len(users)
        wanted = zip(self._wanted(users, depth), eligible, strict=True)
        return [self._sparse_of(users, b, self._among(count, e), e) for b, (count, e) in enumerate(wanted)]

    def _among(self, wanted: int, eligible: Eligible | None) -> int:
        """Proposals among which `wanted` are eligible; 0 where a device's index does not find that many."""
        if eligible is None or self._everything is not None:
            return wanted
        among = min(self._items, wanted + self._items - eligible.count)
        return among if among <= MOST_NEAR else 0

    def _sparse_of(self, users: UserBatch, b: int, wanted: int, eligible: Eligible | None) -> Sparse:
        history, linear = users.history[b, : users.lengths[b]], self._linear
        self._add_linear(history, linear)
        listed = self._listed(history)
        allowed = _allowed(listed, eligible)
        touched, first = np.unique(allowed, return_index=True)
        proposed = np.empty(0, np.int32)
        if self._everything is None and wanted:
            once = allowed[np.sort(first)]  # in the order in which the CPU's loop sees them
            proposed = once[linear[once] >= floor(allowed, wanted, linear)]
        found = Sparse(wanted, touched, linear[touched], proposed, np.unique(users.masked[b]))
        linear[listed] = 0
        return found

    def _add_linear(self, history: Int32, linear: Float32) -> None:
        for channel in self.channels:
            add(history, *channel, linear)

    def _touched(self, history: Int32) -> Int32:
        """Every row with a linear score (it may stand once a channel); none where all items are proposed anyway."""
        return self._listed(history) if self._everything is None else np.empty(0, np.int32)

    def _listed(self, history: Int32) -> Int32:
        listed = [neighbours(history, indptr, indices, self._state) for indptr, indices, _, _ in self.channels]
        return np.concatenate(listed) if listed else np.empty(0, np.int32)


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
