"""Retrieved candidates as training data: what the ranker and the filter learn from.

Hard negatives are the retriever's own candidates. For training they must be scored out of fold, since a retriever's
scores of events it was fitted on are inflated. Who the retriever is, and how it is fitted, stays with the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from shortlist.data.log import InteractionLog
from shortlist.data.splits import Examples
from shortlist.errors import DataError
from shortlist.types import Bool, Float32, Int32, Int64

SCORING_BATCH = 256
MIN_VALUE_WEIGHT, MAX_VALUE_WEIGHT = 0.75, 1.25

SideFeatures = Callable[[Examples], Float32]  # [E, S] user and context features of the target events


class Scorer(Protocol):
    """A fitted retriever: raw tower and linear scores of the whole catalogue, [B, N] each; their sum is its score."""

    def scores(self, rows: Int64, lengths: Int64, side: Float32) -> tuple[Float32, Float32]: ...


@runtime_checkable
class Searcher(Protocol):
    """A fitted retriever of a large catalogue, which finds the best items without scoring all (`training.search`)."""

    def nearest(
        self, history: Int64, lengths: Int64, side: Float32, depth: int, masked: Sequence[NDArray[Any]]
    ) -> tuple[Int32, Float32]: ...

    def of_items(self, history: Int64, lengths: Int64, side: Float32, items: Int32) -> Float32: ...


@dataclass(frozen=True, eq=False)
class CandidateSet:
    """E requests with K retrieved candidates each, best first; row -1 pads."""

    history: Int64  # [E, L] right-padded with -1, oldest first
    lengths: Int64  # [E]
    rows: Int32  # [E, K]
    channels: Float32  # [E, K, 2] raw tower and linear score
    targets: Int32  # [E] the item that came next
    target_channels: Float32  # [E, 2] its scores, retrieved or not
    side: Float32  # [E, S]
    weights: Float32  # [E] importance in training
    users: Int32  # [E]

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, index: NDArray[Any] | slice) -> CandidateSet:
        """The requests at `index`: indices, a mask [E], or a slice."""
        return CandidateSet(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def recent(self, window: int) -> CandidateSet:
        """The same with histories cut to their most recent `window` events."""
        oldest = np.maximum(self.lengths - window, 0)[:, None]
        places = np.minimum(oldest + np.arange(min(window, self.history.shape[1])), self.history.shape[1] - 1)
        lengths = np.minimum(self.lengths, window)
        cut = np.take_along_axis(self.history, places, axis=1)
        cut[np.arange(cut.shape[1]) >= lengths[:, None]] = -1
        return replace(self, history=cut, lengths=lengths)

    def found(self) -> Bool:
        """[E, K], true where the candidate is the target."""
        found: Bool = self.rows == self.targets[:, None]
        return found

    @classmethod
    def concatenate(cls, parts: list[CandidateSet]) -> CandidateSet:
        """All requests of `parts`, in order."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


def retrieve(
    examples: Examples,
    scorer: Scorer | Searcher,
    *,
    depth: int,
    length: int,
    mask_seen: bool,
    side: SideFeatures | None = None,
    weights: Float32 | None = None,
) -> CandidateSet:
    """The `depth` best items of each example by tower + linear score, in batches.

    `length` is the history's length; without `side`, one constant zero column stands in.
    """
    columns = np.zeros((len(examples), 1), np.float32) if side is None else side(examples)
    importance = np.ones(len(examples), np.float32) if weights is None else weights
    parts = []
    for start in range(0, len(examples), SCORING_BATCH):
        stop = min(start + SCORING_BATCH, len(examples))
        history, lengths = examples.histories(start, stop, length)
        one = slice(start, stop)
        part = examples.subset(one)
        asked = (part, history, lengths, columns[one], depth, mask_seen)
        if isinstance(scorer, Searcher):
            rows, channels, of_target = _search(scorer, *asked)
        else:
            rows, channels, of_target = _score_all(scorer, *asked)
        parts.append(
            CandidateSet(
                history, lengths, rows, channels.astype(np.float32), part.targets(), of_target.astype(np.float32),
                columns[one], importance[one], part.users,
            )
        )  # fmt: skip
    return CandidateSet.concatenate(parts)


def _score_all(
    scorer: Scorer, examples: Examples, history: Int64, lengths: Int64, side: Float32, depth: int, mask_seen: bool
) -> tuple[Int32, Float32, Float32]:
    """Rows [B, K], their channels [B, K, 2] and the targets' [B, 2], from scores of the whole catalogue."""
    tower, linear = scorer.scores(history, lengths, side)
    fused = tower + linear
    if mask_seen:
        for row, seen in zip(fused, _seen(examples), strict=True):
            row[seen] = -np.inf
    rows = _best(fused, depth)
    at, everyone, targets = np.maximum(rows, 0), np.arange(len(rows)), examples.targets()
    channels = np.stack([np.take_along_axis(part, at, 1) for part in (tower, linear)], axis=-1)
    return rows, channels, np.stack([tower[everyone, targets], linear[everyone, targets]], axis=-1)


def _search(
    scorer: Searcher, examples: Examples, history: Int64, lengths: Int64, side: Float32, depth: int, mask_seen: bool
) -> tuple[Int32, Float32, Float32]:
    """The same from the nearest items alone."""
    masked = _seen(examples) if mask_seen else [np.empty(0, np.int32)] * len(examples)
    rows, channels = scorer.nearest(history, lengths, side, depth, masked)
    return rows, channels, scorer.of_items(history, lengths, side, examples.targets())


def out_of_fold(
    log: InteractionLog, fit: Callable[[InteractionLog], Scorer | Searcher], *,
    folds: int, positions: int, seed: int, depth: int, length: int, mask_seen: bool,
    side: SideFeatures | None = None, event_weights: Mapping[str, float] | None = None, limit: int = 50_000,
    fitted: int | None = None,
) -> CandidateSet:  # fmt: skip
    """Candidates of each user's latest `positions` events, scored by a retriever that was fitted on other users only.

    `fit` gets the log with the users of one fold emptied; with `fitted` only so many folds give examples. Events that
    weigh 0 are left out, and of more than `limit` events a sample is taken. Raises DataError when no event is left to
    learn from.
    """
    fold_of = np.random.default_rng(seed).permutation(log.n_users) % folds
    events = Examples.every(log, latest=positions)
    asked = folds if fitted is None else min(fitted, folds)
    wanted = (example_weights(events, event_weights or {}) > 0) & (fold_of[events.users] < asked)
    events = events.subset(wanted).sample(limit, seed)
    if not len(events):
        raise DataError(
            f"the training log of {len(log)} events has none that is preceded by another of its user and weighs more "
            "than 0; the ranker needs some. Add data, or raise data.event_weights"
        )
    weights = example_weights(events, event_weights or {})
    parts = []
    for fold in range(asked):
        chosen = fold_of[events.users] == fold
        if not chosen.any():
            continue
        scorer = fit(log.keep(fold_of[log.users()] != fold))
        parts.append(
            retrieve(
                events.subset(chosen), scorer, depth=depth, length=length, mask_seen=mask_seen, side=side,
                weights=weights[chosen],
            )
        )  # fmt: skip
    return CandidateSet.concatenate(parts)


def match_scale(candidates: CandidateSet, reference: CandidateSet) -> CandidateSet:
    """Map both channels so that their mean and deviation over candidates are those of `reference`.

    Fold retrievers see fewer users, so their scores lie on another scale than those of the retriever that serves.
    """
    mean, deviation = _moments(candidates)
    target_mean, target_deviation = _moments(reference)
    factor = target_deviation / deviation

    def mapped(channels: Float32) -> Float32:
        return ((channels - mean) * factor + target_mean).astype(np.float32)

    return replace(candidates, channels=mapped(candidates.channels), target_channels=mapped(candidates.target_channels))


def draw_hard_negatives(candidates: CandidateSet, count: int, rng: np.random.Generator) -> Int64:
    """Places [E, count] of candidates drawn without replacement; targets and padding may be among them."""
    width = candidates.rows.shape[1]
    if count >= width:
        return np.tile(np.arange(width), (len(candidates), 1))
    return np.argpartition(rng.random(candidates.rows.shape, dtype=np.float32), count, axis=1)[:, :count]


def example_weights(examples: Examples, event_weights: Mapping[str, float]) -> Float32:
    """Importance [E] of each target: its event type's weight times a factor that grows with its value.

    The factor runs from 0.75 (lowest) to 1.25 (highest) by the value's percentile among targets of the same event
    type, so that ratings and dwell times need no unit; events without a value take 1.
    """
    log, events = examples.log, examples.events()
    kinds, values = log.events[events], log.values[events]
    by_kind = np.array([event_weights.get(name, 1.0) for name in log.event_names], np.float32)
    weights: Float32 = by_kind[kinds]
    for kind in np.unique(kinds):
        valued = (kinds == kind) & ~np.isnan(values)
        if valued.any():
            percentile = _percentiles(values[valued])
            weights[valued] *= MIN_VALUE_WEIGHT + (MAX_VALUE_WEIGHT - MIN_VALUE_WEIGHT) * percentile
    return weights


def _percentiles(values: Float32) -> Float32:
    """Share of values below, ties counted half: [n] in 0..1."""
    ordered = np.sort(values)
    below = np.searchsorted(ordered, values, side="left")
    up_to = np.searchsorted(ordered, values, side="right")
    shares: Float32 = ((below + up_to) / (2 * len(values))).astype(np.float32)
    return shares


def _moments(candidates: CandidateSet) -> tuple[Float32, Float32]:
    real = candidates.channels[candidates.rows >= 0]  # [n, 2]
    if not len(real):  # everything was masked: leave the scale as it is
        return np.zeros(2, np.float32), np.ones(2, np.float32)
    return real.mean(axis=0), np.maximum(real.std(axis=0), 1e-6)


def _seen(examples: Examples) -> list[Int32]:
    """What each example's user had before the target."""
    starts = examples.log.offsets[examples.users]
    return [examples.log.rows[o : o + p] for o, p in zip(starts, examples.positions, strict=True)]


def _best(scores: Float32, depth: int) -> Int32:
    """Rows [B, min(depth, N)] of the highest scores, best first; -1 where nothing is left."""
    depth = min(depth, scores.shape[1])
    top = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
    found = np.take_along_axis(scores, top, 1)
    order = np.argsort(-found, axis=1, kind="stable")
    rows = np.take_along_axis(top, order, 1)
    return np.where(np.isneginf(np.take_along_axis(found, order, 1)), -1, rows).astype(np.int32)
