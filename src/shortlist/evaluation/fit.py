"""Fits every baseline on the training log of a split, and tunes it on the validation examples.

Interests drift, so a baseline that weighs a whole history alike is easily beaten; choosing the decay by validation
makes item-kNN, EASE and ALS as strong as they are in practice. The test examples are never looked at here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from shortlist.data.splits import Examples, Split
from shortlist.evaluation.baselines import AlternatingLeastSquares, ItemNeighbours, Popularity
from shortlist.evaluation.ease import Ease
from shortlist.evaluation.metrics import ndcg, target_ranks
from shortlist.evaluation.protocols import recommend
from shortlist.evaluation.recommender import Recommender, masks_seen
from shortlist.evaluation.sasrec import PUBLISHED, TUNED, SASRec

DECAYS = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6)
REGULARIZATIONS = (100.0, 200.0, 400.0, 1000.0)  # of EASE
FITTED_UP_TO = 100_000  # items; beyond, popularity is the only baseline that is fitted in minutes
TRY_ALL_UP_TO = 5000  # items; each regularization of a larger catalogue takes minutes
SAMPLE = 2000  # validation examples that choose


class Fading(Recommender, Protocol):
    """A recommender that weighs a history item of age a by decay ** a."""

    decay: float


def fit_baselines(split: Split, *, seed: int = 0, show_progress: bool = False) -> Iterator[Recommender]:
    """Popularity, item-kNN, EASE, ALS, SASRec as published and tuned: each is fitted when it is asked for.

    A catalogue of more than FITTED_UP_TO items gets popularity alone.
    """
    mask_seen = masks_seen(split.train)
    validation = split.validation.sample(SAMPLE, seed)
    yield Popularity.fit(split.train, mask_seen)
    if split.train.n_items > FITTED_UP_TO:
        return
    yield choose([ItemNeighbours.fit(split.train, mask_seen)], validation)
    yield choose(_eases(split, mask_seen), validation)
    yield choose([AlternatingLeastSquares.fit(split.train, mask_seen, seed=seed)], validation)
    for recipe in (PUBLISHED, TUNED):
        yield SASRec.fit(split, mask_seen, recipe, seed=seed, show_progress=show_progress)


def _eases(split: Split, mask_seen: bool) -> Iterator[Ease]:
    values = REGULARIZATIONS if split.train.n_items <= TRY_ALL_UP_TO else REGULARIZATIONS[1:2]
    for value in values:
        yield Ease.fit(split.train, mask_seen, regularization=value)


def choose(models: Iterable[Fading], validation: Examples) -> Recommender:
    """The model, and its decay, with the highest NDCG@10 on the validation examples."""
    best, best_quality = None, (-1.0, 0.0)
    for model in models:
        quality = max((quality_at(model, decay, validation), decay) for decay in DECAYS)
        if quality > best_quality:
            best, best_quality = model, quality
    if best is None:
        raise ValueError("there is no model to choose from")
    best.decay = best_quality[1]
    return best


def quality_at(model: Fading, decay: float, validation: Examples) -> float:
    """NDCG@10 of the model with this decay, which it keeps."""
    model.decay = decay
    ranks = target_ranks(recommend(model, validation, 10), validation.targets())
    return float(ndcg(ranks, 10).mean())
