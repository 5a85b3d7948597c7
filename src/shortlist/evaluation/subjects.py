"""The trained cascade and its single stages as recommenders, through the very code and graphs that serve."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shortlist.cascade import Cascade
from shortlist.data.features import Features
from shortlist.data.splits import Examples
from shortlist.errors import BundleError
from shortlist.evaluation.recommender import Recommender, lift
from shortlist.evaluation.stages import StageScores
from shortlist.profiles.replay import user_batch
from shortlist.types import Candidates, Float32, Int32, UserBatch

STAGES = ("cascade", "cascade (diverse)", "ranker", "filter", "retriever")


@dataclass(frozen=True)
class Stage:
    """The cascade up to one stage.

    retriever: fused retrieval order; filter: its best by the student; ranker: all candidates by the teacher, without
    filter; cascade: all stages at λ = 1; cascade (diverse): the configured λ. Cold users get popularity in each.
    """

    name: str
    cascade: Cascade
    features: Features

    def top(self, examples: Examples, start: int, stop: int, k: int) -> Int32:
        """Item rows for examples start:stop, best first: Int32[B, k], -1 pads the tail."""
        users = user_batch(self.cascade.users, self.features, examples, start, stop)
        return self._ranked(users, k)

    def scores(self, examples: Examples, start: int, stop: int) -> Float32:
        """An order of the whole catalogue: this stage's list first, then retrieval's order. Float32[B, N]."""
        users = user_batch(self.cascade.users, self.features, examples, start, stop)
        scores = self.cascade.retrieve.all_scores(users)
        for row, masked in zip(scores, users.masked, strict=True):
            row[masked] = -np.inf
        return scores if self.name == "retriever" else lift(scores, self._ranked(users, self.cascade.config.rank_depth))

    def _ranked(self, users: UserBatch, k: int) -> Int32:
        rows = np.full((len(users), k), -1, np.int32)
        for members, path in ((users.lengths > 0, self._warm), (users.lengths == 0, self._cold)):
            index = np.flatnonzero(members)
            if len(index):
                found = path(users.take(index), k)[:, :k]
                rows[index, : found.shape[1]] = found
        return rows

    def _cold(self, users: UserBatch, k: int) -> Int32:
        return self.cascade.popularity(users, k).rows

    def _warm(self, users: UserBatch, k: int) -> Int32:
        depth = max(self.cascade.config.rank_depth, 2 * k)
        candidates = self.cascade.retrieve(users, max(self.cascade.config.candidates, depth))
        if self.name in ("filter", "cascade", "cascade (diverse)"):
            candidates = self.cascade.filter(users, candidates, depth)
        if self.name in ("ranker", "cascade", "cascade (diverse)"):
            candidates = self.cascade.rank(users, candidates, depth)
        if self.name == "cascade (diverse)":
            return self._diverse(candidates, k)
        return candidates.rows

    def _diverse(self, candidates: Candidates, k: int) -> Int32:
        diversity = np.full(len(candidates.rows), self.cascade.config.diversity, np.float32)
        picks = self.cascade.diversify(candidates, "rank", diversity, k)
        rows = np.take_along_axis(candidates.rows, np.maximum(picks, 0), axis=1)
        return np.where(picks >= 0, rows, np.int32(-1))


@dataclass(frozen=True)
class CascadeStages:
    """Every stage's scores of the same retrieved candidates, for retention."""

    cascade: Cascade
    features: Features

    def stage_scores(self, examples: Examples, start: int, stop: int, n: int) -> StageScores:
        """Retrieve n candidates for examples start:stop and score them all with filter and ranker."""
        users = user_batch(self.cascade.users, self.features, examples, start, stop)
        found = self.cascade.retrieve(users, n)
        return StageScores(found.rows, self.cascade.filter.score(users, found), self.cascade.rank.score(users, found))


def load_subjects(run: Path, features: Features) -> dict[str, Recommender]:
    """Every stage of a run's cascade by name, the whole cascade first."""
    cascade = Cascade.load(run / "bundle")
    return {name: Stage(name, cascade, features) for name in STAGES}


def load_stage_source(run: Path, features: Features) -> CascadeStages:
    """The run's stages for the measurement of recall and retention."""
    return CascadeStages(Cascade.load(run / "bundle"), features)


def load_parity(run: Path) -> dict[str, Any]:
    """What training measured of torch, ONNX and INT8 against each other."""
    try:
        parity: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))["parity"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{run / 'run.json'}: is missing or damaged ({error}); train again") from error
    return parity
