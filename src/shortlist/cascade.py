"""The request's path: users → retrieve → filter → rank → diversify → slate, for a batch of requests at once.

This file only puts the stages in order. What a stage does is in `stages/`; transport, ids of tensors and metrics are in
`serving/`. Every request gets an answer of its own: a slate, or the error that it alone caused.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from shortlist.bundle import Bundle
from shortlist.catalog import Catalog
from shortlist.config import CascadeConfig
from shortlist.deadlines import SEGMENT, Costs, Effort, ladder
from shortlist.devices import Device
from shortlist.devices.cpu import Cpu
from shortlist.errors import BundleError, ConfigError, DeadlineError, RequestError, ShortlistError
from shortlist.funnel import Funnel
from shortlist.room import RoomyBundle
from shortlist.stages.assortment import Assortment
from shortlist.stages.delta import DeviceRows
from shortlist.stages.diversify import Diversify, explore
from shortlist.stages.eligibility import Eligibility
from shortlist.stages.filter import Filter
from shortlist.stages.popularity import Popularity
from shortlist.stages.rank import Rank
from shortlist.stages.retrieve import Retrieve
from shortlist.stages.segments import SegmentLists
from shortlist.stages.users import Users
from shortlist.types import FALLBACK, FULL, MAX_K, NO_FILTER, Candidates, Float32, Int32, Request, Slate, UserBatch

TOGETHER, ROUNDS = 16, 5  # requests of a batch, and batches, by which warming up measures what the stages cost

Observer = Callable[[str, float, int, int], None]
"""Told after each stage of a batch: its name, seconds, items in, items out."""


class Cascade:
    """A loaded bundle, ready to answer. One instance serves one thread."""

    def __init__(
        self,
        bundle: Bundle,
        seed: int | None = None,
        device: Device | None = None,
        eligible: Mapping[str, Any] | None = None,
    ) -> None:
        self.device = device = device or Cpu()
        self.version = bundle.version
        self.config = CascadeConfig.model_validate(bundle.metadata["cascade"])
        self.catalog = Catalog.load(bundle, device)
        self.popularity = Popularity(bundle)
        self.retrieve = Retrieve(bundle, self.catalog, device)
        self.eligibility = Eligibility(bundle, len(self.catalog), self.retrieve.prepare, eligible)
        self.users = Users(bundle, self.catalog, self.popularity, self.config.history, device, self.eligibility)
        self.filter = Filter(bundle, self.catalog, device)
        self.rank = Rank(bundle, self.catalog, device)
        self.diversify = Diversify(bundle, self.catalog, self.config, device)
        self.assortment: Assortment | None = None  # None: what the bundle knows is what there is
        self._new_rows: DeviceRows | None = None
        if isinstance(bundle, RoomyBundle):
            self.assortment = Assortment(bundle, self.catalog, self.config, self.eligibility, self.popularity)
            kept = {"filter_items": self.filter.items, "diversity_items": self.diversify.items}
            self._new_rows = DeviceRows(bundle, self.catalog, device, kept | {"item_groups": self.diversify.groups})
        self.segments: SegmentLists | None = None  # for people who are known when there is no time to retrieve
        self.costs = Costs(ladder(self.config.efforts))
        self.observer: Observer | None = None
        self._rng = np.random.default_rng(seed)

    @classmethod
    def load(
        cls,
        path: Path,
        verify: bool = True,
        seed: int | None = None,
        device: Device | None = None,
        eligible: Mapping[str, Any] | None = None,
        room: int | None = None,
    ) -> Cascade:
        """Open the bundle at `path` on `device`, the CPU where none is given; a device serves one cascade.

        `eligible` is a predicate that items must satisfy in every request, whatever that asks for. With `room` for new
        items the cascade has an `assortment`. Raises BundleError when something is missing or damaged, ConfigError when
        the GPU fails or `eligible` does not fit the bundle.
        """
        bundle = Bundle.open(path, verify) if room is None else RoomyBundle.with_room(path, verify, room)
        try:
            return cls(bundle, seed, device, eligible)
        except RequestError as error:
            raise ConfigError(f"{error} (in the deployment's own predicate, for {path})") from error
        except (AttributeError, LookupError, TypeError, ValueError, RuntimeError, MemoryError) as error:
            what = f"{type(error).__name__}: {error}"
            if device and device.name == "gpu" and isinstance(error, RuntimeError | MemoryError):  # CUDA's
                raise ConfigError(
                    f"--device = 'gpu': it failed while {path} was loaded ({what}); look in nvidia-smi for others that "
                    "use its memory, serve fewer --instances, or choose cpu or auto"
                ) from error
            if isinstance(error, MemoryError):
                raise
            raise BundleError(f"{path}: its parts do not fit together ({what}); train again") from error

    def recommend(self, requests: Sequence[Request]) -> list[Slate | ShortlistError]:
        """One answer for each request, in order: a Slate, or the RequestError or DeadlineError it caused itself."""
        answers: dict[int, Slate | ShortlistError] = {}
        plans: dict[tuple[Effort, int], list[int]] = defaultdict(list)
        for i, effort in enumerate(self.costs.plan(requests, time.time_ns() // 1000)):
            try:
                if isinstance(effort, DeadlineError):
                    raise effort
                self.users.check(requests[i])
                plans[effort, self._rank_depth(requests[i], effort)].append(i)
            except ShortlistError as error:
                answers[i] = error
        for (effort, depth), members in plans.items():
            answers.update(zip(members, self._answer(effort, depth, [requests[i] for i in members]), strict=True))
        for i, late in enumerate(self.costs.late(requests, time.time_ns() // 1000)):
            if late and isinstance(answers[i], Slate):
                answers[i] = late
        return [answers[i] for i in range(len(requests))]

    def warm_up(self) -> None:
        """Run every path once: compiles Numba functions, fills ONNX Runtime's arenas, and measures the stages."""
        item = self.catalog.ids.id(0)
        self.device.warm_up()
        self.retrieve.warm_up()
        if self.device.name == "gpu":  # kernels are compiled for numbers of candidates, which follow from k
            self.recommend([Request(history=(item,), k=k) for k in range(1, MAX_K + 1)])
        for eligible in self.eligibility.examples():
            self.recommend([Request(history=(item,), eligible=eligible), Request(eligible=eligible)])
        if self.assortment:
            with self.assortment.without(item):
                self.recommend([Request(history=(item,)), Request()])
        warm = self._typical(TOGETHER)
        for _ in range(2):
            self.recommend([*warm, Request(history=(item,), trace=True), Request()])
        alone, together = (self._measure(batch) for batch in ([[r] for r in warm], [warm] * ROUNDS))
        self.costs.measured(alone, together, TOGETHER)

    def _typical(self, count: int) -> list[Request]:
        """Requests of stored users who have a history; where there are too few, of somebody who saw one item."""
        stored = self.users.profiles
        known = np.flatnonzero(np.diff(stored.offsets[:1000]))[:count].tolist()
        others = [Request(history=(self.catalog.ids.id(0),))] * (count - len(known))
        return [Request(user_id=stored.ids.id(user)) for user in known] + others

    def _measure(self, batches: Sequence[Sequence[Request]]) -> dict[str, float]:
        """Median seconds of each stage over `batches`."""
        times: dict[str, list[float]] = defaultdict(list)
        told, self.observer = self.observer, lambda stage, seconds, *_: times[stage].append(seconds)
        for batch in batches:
            self.recommend(batch)
        self.observer = told
        return {stage: median(seconds) for stage, seconds in times.items()}

    def _answer(self, effort: Effort, depth: int, requests: list[Request]) -> list[Slate]:
        """Slates for requests that share effort and rank depth; those without a history take the cold-start path."""
        funnel = Funnel(self.device, effort, len(requests))
        self.costs.leave_out(effort)
        with funnel.stage("users", len(requests)):
            users = self.users.look_up(requests)
            if self._new_rows:
                self._new_rows.follow()
        self._tell(funnel)
        cold, known = users.lengths == 0, self._warm
        if effort.status == FALLBACK:
            cold, known = (cold, self._by_segment) if self.segments else (np.ones_like(cold), known)
        slates: dict[int, Slate] = {}
        for members, path in ((np.flatnonzero(~cold), known), (np.flatnonzero(cold), self._cold)):
            if len(members):
                part = [requests[i] for i in members]
                some = users if len(part) == len(requests) else users.take(members)
                answered = path(depth, some, part, funnel.of_part(len(part)))
                slates.update(zip(members.tolist(), answered, strict=True))
        return [slates[i] for i in range(len(requests))]

    def _warm(self, depth: int, users: UserBatch, requests: list[Request], funnel: Funnel) -> list[Slate]:
        plan, stage = funnel.effort.status, "retrieve"
        wanted = funnel.effort.of(self.config.candidates, least=depth)
        with funnel.stage(stage, len(users) * len(self.catalog)):
            users, diversity = self.retrieve.bring(users, wanted, self._diversity(requests))
            users = self.users.encoded(users)
            candidates = funnel.note(stage, self.retrieve(users, wanted, funnel.effort.share))
        if plan != NO_FILTER:
            stage = "filter"
            with funnel.stage(stage, candidates.rows.size):
                candidates = funnel.note(stage, self.filter(users, candidates, depth))
        if plan == FULL:
            stage = "rank"
            with funnel.stage(stage, candidates.rows.size):
                candidates = funnel.note(stage, self.rank(users, candidates, depth))
        return self._slates(plan, stage, candidates.head(depth), diversity, requests, funnel)

    def _by_segment(self, depth: int, users: UserBatch, requests: list[Request], funnel: Funnel) -> list[Slate]:
        """For people who are known, when there is time for their vectors but not to retrieve."""
        if (lists := self.segments) is None:  # another thread has just taken them away
            return self._cold(depth, users, requests, funnel)
        with funnel.stage(SEGMENT, len(users) * lists.length):
            candidates = funnel.note(SEGMENT, lists(self.users.encoded(users), depth))
        return self._slates(FALLBACK, "retrieve", candidates, self._diversity(requests), requests, funnel)

    def _cold(self, depth: int, users: UserBatch, requests: list[Request], funnel: Funnel) -> list[Slate]:
        with funnel.stage("popularity", len(users) * self.popularity.rows.shape[1]):
            popular = funnel.note("popularity", self.popularity(users, depth))
            *parts, diversity = self.device.put(
                popular.rows, popular.scores, popular.channels, self._diversity(requests)
            )
        status = FALLBACK if funnel.effort.status == FALLBACK else FULL  # a cold start has no other stages to leave out
        return self._slates(status, "popularity", Candidates(*parts), diversity, requests, funnel)

    def _slates(
        self,
        plan: str,
        stage: str,
        candidates: Candidates,
        diversity: Float32,
        requests: list[Request],
        funnel: Funnel,
    ) -> list[Slate]:
        lengths = [r.k or self.config.k for r in requests]
        with funnel.stage("diversify", candidates.rows.size):
            picks = funnel.survivors["diversify"] = self.diversify(candidates, stage, diversity, max(lengths))
            traced = funnel.survivors if True in [r.trace for r in requests] else {}
            rows, scores, picks, *survivors = self.device.fetch(
                candidates.rows, candidates.scores, picks, *traced.values()
            )
            if traced:
                funnel.survivors.update(zip(traced, survivors, strict=True))
                shown = np.take_along_axis(rows, picks, axis=1)
                funnel.survivors["diversify"] = np.where(picks >= 0, shown, np.int32(-1))
            chosen = [self._explore(p[:k], row) for p, k, row in zip(picks, lengths, rows, strict=True)]
        self._tell(funnel)
        return [
            self._slate(plan, rows[b], scores[b], *chosen[b], request, funnel, b) for b, request in enumerate(requests)
        ]

    def _diversity(self, requests: list[Request]) -> Float32:
        default = self.config.diversity
        return np.array([default if r.diversity is None else r.diversity for r in requests], np.float32)

    def _explore(self, picks: Int32, rows: Int32) -> tuple[Int32, Float32]:
        picks = picks[picks >= 0]
        if self.config.exploration == 0:
            return picks, np.ones(len(picks), np.float32)
        return explore(picks, int((rows >= 0).sum()), self.config.exploration, self._rng)

    def _slate(
        self,
        plan: str,
        rows: Int32,
        scores: Float32,
        picks: Int32,
        propensities: Float32,
        request: Request,
        funnel: Funnel,
        member: int,
    ) -> Slate:
        shown = rows[picks]
        items = tuple([self.catalog.ids.id(row) for row in shown.tolist()])
        trace = funnel.trace(self.version, items, shown, member) if request.trace else None
        return Slate(items, scores[picks], propensities, plan, trace, funnel.effort.share)

    def _rank_depth(self, request: Request, effort: Effort) -> int:
        """At least twice the slate, so that diversity has a choice; never the concern of others in the batch."""
        return effort.of(self.config.rank_depth, least=2 * (request.k or self.config.k))

    def _tell(self, funnel: Funnel) -> None:
        """Tell the costs and the observer of stages that the device has done."""
        for name, seconds, items_in, items_out in funnel.done():
            self.costs.observe(name, seconds, funnel.requests, funnel.effort)
            if self.observer:
                self.observer(name, seconds, items_in, items_out)
