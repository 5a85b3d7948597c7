"""One evaluation from end to end: a trained run and the baselines on the same examples, compared and sliced.

`evaluate_run` finds everything through the run; `compare` does the work on plain recommenders. What a run holds is
known to `shortlist.evaluation.subjects`, how it is trained to `shortlist.training.run`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from shortlist.config import Protocol
from shortlist.data.splits import Split
from shortlist.evaluation.bootstrap import paired_differences
from shortlist.evaluation.fit import fit_baselines
from shortlist.evaluation.metrics import Catalogue
from shortlist.evaluation.protocols import Result, evaluate, history_lengths, target_popularity
from shortlist.evaluation.recommender import Recommender
from shortlist.evaluation.report import Evaluation
from shortlist.evaluation.slices import Slice, by_history_length, by_popularity_decile
from shortlist.evaluation.stages import StageSource, measure_stages
from shortlist.types import Float32, Int32

SLICED = "ndcg@10"
SAMPLE_SEED = 0


@dataclass(frozen=True, eq=False)
class Experiment:
    """An evaluation with the per-example values behind it."""

    evaluation: Evaluation
    results: list[Result]
    users: Int32  # [E] user of each example


def evaluate_run(
    run: Path, protocol: Protocol, *, baselines: bool = True, sample: int | None = None, show_progress: bool = False
) -> Experiment:
    """Evaluate a run under `protocol`, first training it under that protocol where it was trained under another.

    With `sample`, at most so many held-out events are predicted; each still ranks the whole catalogue.
    """
    from shortlist.evaluation.subjects import load_parity, load_stage_source, load_subjects
    from shortlist.training.run import ensure_run, load_served_split

    run = ensure_run(run, protocol)
    split, features = load_served_split(run)
    if sample is not None:
        split = replace(split, test=split.test.sample(sample, SAMPLE_SEED))
    subjects = load_subjects(run, features)
    fitted = fit_baselines(split, show_progress=show_progress) if baselines else ()
    return compare(
        chain(subjects.values(), fitted),
        split,
        content=features.item_content if isinstance(features.item_content, np.ndarray) else None,
        stages=load_stage_source(run, features),
        parity=load_parity(run),
        title=run.name,
        show_progress=show_progress,
    )


def compare(
    recommenders: Iterable[Recommender],
    split: Split,
    *,
    content: Float32 | None = None,
    stages: StageSource | None = None,
    parity: Mapping[str, Any] | None = None,
    title: str = "",
    seed: int = 0,
    show_progress: bool = False,
) -> Experiment:
    """Measure recommenders on the split's test examples and compare the first of them with every other.

    `content` Float32[N, C] serves intra-list diversity, which is left out without any; `stages` serves the stage
    table. `seed` is the bootstrap's.
    """
    catalogue = Catalogue(split.train.popularity(), content if content is not None and content.any() else None)
    results = evaluate(recommenders, split, catalogue, show_progress=show_progress)
    reference, others = results[0], results[1:]
    evaluation = Evaluation(
        protocol=split.protocol,
        examples=len(split.test),
        users=len(np.unique(split.test.users)),
        models={result.name: result.means() for result in results},
        stages={} if stages is None else measure_stages(stages, split.test, show_progress=show_progress),
        parity=parity or {},
        reference=reference.name,
        differences=paired_differences(
            reference.per_example, {other.name: other.per_example for other in others}, split.test.users, seed=seed
        ),
        slices=sliced(results, split),
        title=title,
    )
    return Experiment(evaluation, results, split.test.users)


def sliced(results: list[Result], split: Split) -> dict[str, list[Slice]]:
    """NDCG@10 of each model by history length and by popularity of the target."""
    metric = {result.name: result.per_example[SLICED] for result in results}
    return {
        "history length": by_history_length(history_lengths(split.test), metric),
        "training events of the target (deciles)": by_popularity_decile(
            target_popularity(split.test, split.train), metric
        ),
    }
