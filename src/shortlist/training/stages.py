"""Trains the stages one after the other, each on what the one before gives it, and exports their graphs.

retriever → out-of-fold candidates → ranker → its scores → student → INT8. What each trained module is worth is
measured by `evaluation` later; here only what training itself had to know is reported.
"""

from __future__ import annotations

from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

from shortlist.config import Config
from shortlist.data.features import Features
from shortlist.data.log import InteractionLog
from shortlist.data.splits import Examples, Split
from shortlist.models.ranker import Ranker
from shortlist.models.retriever import Retriever
from shortlist.models.student import Student
from shortlist.training.assemble import Trained
from shortlist.training.filter import filter_input
from shortlist.training.graphs import export_graphs
from shortlist.training.negatives import CandidateSet, Scorer, Searcher, match_scale, out_of_fold, retrieve
from shortlist.training.ranker import RankerReport, score, train_ranker
from shortlist.training.retriever import refit, train_retriever
from shortlist.training.search import EXACT_UP_TO, NearestItems
from shortlist.training.student import Distillation, StudentReport, train_student

FOLD_DEPTH = 200  # candidates of an out-of-fold example
DISTILLED_EVENTS = 4  # latest events of each user that the student is distilled on
DISTILLED_LIMIT, VALIDATION_LIMIT = 20_000, 20_000  # requests
RANKED_LIMIT = 50_000  # out-of-fold examples
SEARCHED_SHARE = 0.3  # of these limits, where the catalogue is searched and not scored whole; and one fold is enough


def train_stages(
    config: Config, split: Split, features: Features, run: Path, *, show_progress: bool
) -> tuple[Trained, dict[str, Any], dict[str, float]]:
    """Train and export every stage. Returns the parts of the bundle, training's reports, and the graphs' parity."""
    retriever = _retriever(config, split, features, run, show_progress)
    retriever.save(run / "models")
    scorer = searchable(retriever, config.seed)
    share = 1.0 if scorer is retriever else SEARCHED_SHARE
    judging = split.validation.sample(round(share * VALIDATION_LIMIT), config.seed)
    validation = served_candidates(config, judging, retriever, scorer, features)
    ranker, ranker_report = _ranker(config, split, features, retriever, validation, share, run, show_progress)
    ranker.save(run / "models")
    data = distillation(config, split, features, retriever, scorer, ranker, validation, share)
    student, student_report = _student(config, data, show_progress)
    student.save(run / "models")
    given = filter_input(student, data.item_vectors, features.item_features, config.filter.item_precision)
    graphs, parity = export_graphs(retriever, ranker, student, given, data, config.cascade.rank_depth)
    reports = {"retriever": retriever.report, "ranker": asdict(ranker_report), "student": asdict(student_report)}
    return Trained(retriever, ranker, graphs, features, given), reports, parity


def _retriever(config: Config, split: Split, features: Features, run: Path, show_progress: bool) -> Retriever:
    return train_retriever(
        config.retriever,
        split.train,
        split.validation,
        content=features.item_content,
        side=features.side,
        seed=config.seed,
        checkpoint_dir=run / "checkpoints",
        show_progress=show_progress,
    )


def searchable(retriever: Retriever, seed: int) -> Scorer | Searcher:
    """The retriever itself where its catalogue is small enough to be scored whole for every example."""
    return retriever if len(retriever.item_vectors()) <= EXACT_UP_TO else NearestItems(retriever, seed)


def served_candidates(
    config: Config, examples: Examples, retriever: Retriever, scorer: Scorer | Searcher, features: Features
) -> CandidateSet:
    """What the trained retriever hands on for `examples`."""
    return retrieve(
        examples,
        scorer,
        depth=config.cascade.candidates,
        length=config.cascade.history,
        mask_seen=retriever.mask_seen,
        side=features.side,
    )


def _ranker(
    config: Config,
    split: Split,
    features: Features,
    retriever: Retriever,
    validation: CandidateSet,
    limits: float,
    run: Path,
    show_progress: bool,
) -> tuple[Ranker, RankerReport]:
    """Train on candidates of retrievers that never saw the user, brought onto the scale of the one that serves."""
    candidates, settings = _unseen(config, split, features, retriever, limits, run, show_progress), config.ranker
    return train_ranker(
        match_scale(candidates, validation),
        validation,
        item_features=features.item_features,
        content=features.item_content,
        dim=settings.dim,
        heads=settings.heads,
        hard_negatives=settings.hard_negatives,
        window=settings.history,
        epochs=settings.epochs,
        patience=settings.patience,
        learning_rate=settings.learning_rate,
        dropout=settings.dropout,
        seed=config.seed,
        show_progress=show_progress,
    )


def _unseen(
    config: Config,
    split: Split,
    features: Features,
    retriever: Retriever,
    limits: float,
    run: Path,
    show_progress: bool,
) -> CandidateSet:
    """Candidates for events of the training log, each from a retriever that never saw the user."""
    settings = config.ranker
    share = (settings.folds - 1) / settings.folds  # of the users, that a fold's retriever sees
    lighter = [c.model_copy(update={"regularization": c.regularization * share}) for c in config.retriever.linear]
    fold_config = config.retriever.model_copy(update={"linear": tuple(lighter)})
    folds = count()

    def fit(log: InteractionLog) -> Scorer | Searcher:
        fitted = refit(
            fold_config,
            retriever,
            log,
            split.validation,
            content=features.item_content,
            side=features.side,
            seed=config.seed,
            checkpoint_dir=run / "checkpoints" / f"fold{next(folds)}",
            show_progress=show_progress,
        )
        return searchable(fitted, config.seed)

    return out_of_fold(
        split.train,
        fit,
        folds=settings.folds,
        positions=settings.positions,
        seed=config.seed,
        depth=min(FOLD_DEPTH, config.cascade.candidates),
        length=config.cascade.history,
        mask_seen=retriever.mask_seen,
        side=features.side,
        event_weights=config.data.event_weights,
        limit=round(limits * RANKED_LIMIT),
        fitted=None if limits == 1 else 1,
    )


def distillation(
    config: Config,
    split: Split,
    features: Features,
    retriever: Retriever,
    scorer: Scorer | Searcher,
    ranker: Ranker,
    validation: CandidateSet,
    limits: float = 1.0,
) -> Distillation:
    """The ranker's scores on requests like those served: the latest events, with the serving retriever's candidates."""
    latest = Examples.every(split.train, latest=DISTILLED_EVENTS).sample(round(limits * DISTILLED_LIMIT), config.seed)
    requests = CandidateSet.concatenate([validation, served_candidates(config, latest, retriever, scorer, features)])
    return Distillation(
        requests,
        score(ranker, requests, features.item_features),
        retriever.user_vectors(requests.history, requests.lengths, requests.side),
        retriever.item_vectors(),
        features.item_features,
    )


def _student(config: Config, data: Distillation, show_progress: bool) -> tuple[Student, StudentReport]:
    settings = config.filter
    return train_student(
        data,
        hidden=settings.hidden,
        temperature=settings.temperature,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        seed=config.seed,
        show_progress=show_progress,
    )
