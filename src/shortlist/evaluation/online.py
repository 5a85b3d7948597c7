"""Whether a user vector that is updated online ranks better than the tower's alone: on histories rolled forward.

The validation and test events of the rolling protocol are what happened after training. They are replayed in order;
each is ranked with the drift that the person's earlier ones left, and by the tower alone. The recipe is chosen on
validation by what is served, the cascade's slates, and told on test. The step is `shortlist.profiles.online`'s.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from shortlist.cascade import Cascade
from shortlist.data.features import Features
from shortlist.data.splits import Examples, Split
from shortlist.evaluation.bootstrap import Interval, paired_difference
from shortlist.evaluation.effort import Setting, slates
from shortlist.evaluation.metrics import Float64, ndcg, target_ranks
from shortlist.evaluation.progress import progress
from shortlist.profiles.online import replay
from shortlist.profiles.replay import user_batch
from shortlist.training.run import ensure_run, load_served_split
from shortlist.types import Bool, Float32, Int32

RATES, NEGATIVES, BOUNDS = (0.01, 0.03, 0.1), (4, 16, 64), (0.1, 0.3, 1.0)
TOP, BATCH = 10, 256
CASCADE, RETRIEVER = "cascade", "retriever"


@dataclass(frozen=True)
class Recipe:
    """How a vector is updated."""

    learning_rate: float
    negatives: int
    bound: float  # of the drift, as a share of the tower's vector

    def __str__(self) -> str:
        return f"rate {self.learning_rate:g}, {self.negatives} negatives, drift ≤ {self.bound:g}"


GRID = tuple(Recipe(*values) for values in product(RATES, NEGATIVES, BOUNDS))


def online_update(
    run: Path, grid: Sequence[Recipe] = GRID, *, seed: int = 0, show_progress: bool = False
) -> dict[str, Any]:
    """Compare every recipe with not updating; plain numbers, ready for JSON.

    A run of another protocol is first trained under the rolling one.
    """
    run = ensure_run(run, "rolling")
    split, features = load_served_split(run)
    cascade = Cascade.load(run / "bundle")
    events, is_test = after_training(split)
    stream = Stream.read(cascade, features, events)
    ranked, validation = Ranked(cascade, features, events), ~is_test & (events.positions > 0)
    without = ranked.ndcg(np.zeros_like(stream.towers), validation)
    differences: dict[Recipe, dict[str, Interval]] = {}
    for recipe in progress(list(grid), "recipes", show_progress):
        with_drift = ranked.ndcg(stream.drift(recipe, seed)[0], validation)
        differences[recipe] = compared(with_drift, without, events.users[validation])
    chosen = max(differences, key=lambda recipe: differences[recipe][CASCADE].mean)
    drift, seconds = stream.drift(chosen, seed)
    test = is_test & (events.positions > 0)
    without, with_drift = ranked.ndcg(np.zeros_like(drift), test), ranked.ndcg(drift, test)
    on_test = compared(with_drift, without, events.users[test])
    return {
        "examples": {"validation": int(validation.sum()), "test": int(test.sum())},
        "chosen": asdict(chosen),
        "us_an_event": 1e6 * seconds / len(events),
        "wins": on_test[CASCADE].low > 0,
        "test": {name: _row(without[name], difference) for name, difference in on_test.items()},
        "validation": [
            {**asdict(recipe), **{name: interval.to_json() for name, interval in of.items()}}
            for recipe, of in differences.items()
        ],
    }


def after_training(split: Split) -> tuple[Examples, Bool]:
    """The events that training did not see, one person's together and oldest first, and which are the test's."""
    parts = (split.validation, split.test)
    users, positions = (np.concatenate([getattr(part, name) for part in parts]) for name in ("users", "positions"))
    order = np.lexsort((positions, users))
    is_test = np.repeat([False, True], [len(part) for part in parts])
    return Examples(split.test.log, users[order], positions[order]), is_test[order]


@dataclass(frozen=True, eq=False)
class Stream:
    """E events, and what the tower said before each."""

    events: Examples
    towers: Float32  # [E, D]
    items: Float32  # [N, D]
    mask_seen: bool

    @classmethod
    def read(cls, cascade: Cascade, features: Features, events: Examples) -> Stream:
        """Run the bundle's tower before every event."""
        starts = range(0, len(events), BATCH)
        towers = [user_batch(cascade.users, features, events, s, s + BATCH).vectors for s in starts]
        items = np.ascontiguousarray(cascade.retrieve.vectors, np.float32)
        return cls(events, np.concatenate(towers), items, cascade.users.mask_seen)

    def drift(self, recipe: Recipe, seed: int) -> tuple[Float32, float]:
        """The drift before each event [E, D], and the CPU seconds that all steps took."""
        arrays = (self.towers, self.events.users, self.items, self.events.targets())
        negatives = self._negatives(recipe.negatives, seed)
        settings = np.float32(recipe.learning_rate), np.float32(recipe.bound)
        towers, users, items, targets = arrays
        replay(towers[:2], users[:2], items, targets[:2], negatives[:2], *settings)  # compiles
        began = time.process_time()
        found: Float32 = replay(*arrays, negatives, *settings)
        return found, time.process_time() - began

    def _negatives(self, count: int, seed: int) -> Int32:
        """Uniform rows [E, count], -1 where one is the target or, if seen items are masked, in the history."""
        shape = len(self.events), count
        drawn = np.random.default_rng(seed).integers(0, len(self.items), shape, np.int32)
        drawn[drawn == self.events.targets()[:, None]] = -1
        if self.mask_seen:
            starts, log = self.events.log.offsets[self.events.users], self.events.log
            for row, start, position in zip(drawn, starts, self.events.positions, strict=True):
                row[np.isin(row, log.rows[start : start + position])] = -1
        return drawn


@dataclass(frozen=True, eq=False)
class Ranked:
    """The served stages, asked about events with a drift added to the tower's vectors."""

    cascade: Cascade
    features: Features
    events: Examples

    def ndcg(self, drift: Float32, chosen: Bool) -> dict[str, Float64]:
        """NDCG@10 of the `chosen` events [E] with `drift` [E, D], by the retriever and by the cascade."""
        index, config = np.flatnonzero(chosen), self.cascade.config
        whole = Setting(1.0, config.candidates, config.rank_depth)
        values: dict[str, list[Float64]] = {RETRIEVER: [], CASCADE: []}
        for start in range(0, len(index), BATCH):
            part = index[start : start + BATCH]
            examples = self.events.subset(part)
            users = user_batch(self.cascade.users, self.features, examples, 0, len(part))
            users = replace(users, vectors=users.vectors + drift[part])
            lists = self.cascade.retrieve(users, TOP).rows, slates(self.cascade, users, whole)
            for name, rows in zip(values, lists, strict=True):
                values[name].append(ndcg(target_ranks(rows, examples.targets()), TOP))
        return {name: np.concatenate(parts) for name, parts in values.items()}


def compared(ours: dict[str, Float64], theirs: dict[str, Float64], users: Int32) -> dict[str, Interval]:
    """Paired intervals, resampled by user."""
    return {name: paired_difference(ours[name], theirs[name], users) for name in ours}


def table(report: dict[str, Any]) -> Table:
    """The verdict for the terminal."""
    recipe = Recipe(**report["chosen"])
    shown = Table(
        "stage", f"tower alone, NDCG@{TOP}", "updated online", "difference",
        title=f"{recipe} (chosen on validation); {report['us_an_event']:.1f} µs CPU an event",
        caption=f"{report['examples']['test']:,} test events: {'wins' if report['wins'] else 'does not surely win'}",
    )  # fmt: skip
    for name, row in report["test"].items():
        of = row["difference"]
        change = f"{of['mean']:+.4f} ({of['low']:+.4f} … {of['high']:+.4f})"
        shown.add_row(name, f"{row['without']:.4f}", f"{row['without'] + of['mean']:.4f}", change)
    return shown


def _row(without: Float64, difference: Interval) -> dict[str, Any]:
    return {"without": float(without.mean()), "difference": difference.to_json()}
