"""Fits every baseline on the training log of a split, with its history decay chosen on the validation examples.

Interests drift, so a baseline that weighs a whole history alike is easily beaten; choosing the decay by validation
makes item-kNN, EASE and ALS as strong as they are in practice. The test examples are never looked at here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from shortlist.data.splits import Examples, Split
from shortlist.evaluation.baselines import AlternatingLeastSquares, ItemNeighbours, Popularity
from shortlist.evaluation.ease import Ease
from shortlist.evaluation.metrics import ndcg, target_ranks
from shortlist.evaluation.protocols import recommend
from shortlist.evaluation.recommender import Recommender, masks_seen
from shortlist.evaluation.sasrec import SASRec

DECAYS = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6)
SAMPLE = 2000  # validation examples that choose a decay


class Fading(Recommender, Protocol):
    """A recommender that weighs a history item of age a by decay ** a."""

    decay: float


def fit_baselines(split: Split, *, seed: int = 0, show_progress: bool = False) -> Iterator[Recommender]:
    """Popularity, item-kNN, EASE, ALS and SASRec, fitted one after another as they are asked for."""
    mask_seen = masks_seen(split.train)
    validation = split.validation.sample(SAMPLE, seed)
    yield Popularity.fit(split.train, mask_seen)
    yield choose_decay(ItemNeighbours.fit(split.train, mask_seen), validation)
    yield choose_decay(Ease.fit(split.train, mask_seen), validation)
    yield choose_decay(AlternatingLeastSquares.fit(split.train, mask_seen, seed=seed), validation)
    yield SASRec.fit(split, mask_seen, seed=seed, show_progress=show_progress)


def choose_decay(model: Fading, validation: Examples) -> Recommender:
    """Set the model's decay to the one with the highest NDCG@10 on the validation examples; returns the model."""
    targets, quality = validation.targets(), {}
    for decay in DECAYS:
        model.decay = decay
        ranks = target_ranks(recommend(model, validation, 10), targets)
        quality[decay] = float(ndcg(ranks, 10).mean())
    model.decay = max(quality, key=lambda decay: quality[decay])
    return model
