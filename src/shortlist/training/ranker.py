"""Trains the cross-attention ranker on out-of-fold candidates, and lets validation say how far to trust it.

The listwise softmax has one positive against hard negatives. Held-out users choose the epoch; they and the validation
examples choose how much of what was learned is added to the retriever's order, and the answer may be: nothing.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from shortlist.models.items import ItemTower, as_content
from shortlist.models.ranker import MASKED, Ranker
from shortlist.training.calibration import RankingScores, choose_weight, fit_platt, log_likelihood, ndcg
from shortlist.training.negatives import CandidateSet, draw_hard_negatives
from shortlist.training.optimizers import build_optimizers
from shortlist.types import Float32, Int64

if TYPE_CHECKING:
    from shortlist.data.features import Content

BATCH = 64
SCORING_BATCH = 128
WARMUP_STEPS = 50
FAINT = 1e-4  # deviation below which a feature column counts as constant
SCALE_SAMPLE = 2000  # requests whose candidates fix the feature scales
HELD_OUT = 0.15  # share of users whose out-of-fold examples judge instead of teach


@dataclass(frozen=True)
class RankerReport:
    """What training found; NDCG@10 is over the retrieved candidates."""

    weight: float  # of the deviation from the retriever's order; 0 keeps that order
    retrieval_ndcg: float  # on the validation examples
    ndcg: float
    held_out_retrieval_ndcg: float  # on the held-out users' out-of-fold examples
    held_out_ndcg: float
    epochs: int
    seconds: float


def train_ranker(
    training: CandidateSet,
    validation: CandidateSet,
    *,
    item_features: Float32,
    content: Content | None = None,
    dim: int = 32,
    heads: int = 2,
    hidden: int = 32,
    window: int = 50,
    hard_negatives: int = 50,
    epochs: int = 4,
    patience: int = 2,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.05,
    dropout: float = 0.2,
    seed: int = 0,
    show_progress: bool = True,
) -> tuple[Ranker, RankerReport]:
    """Train on out-of-fold candidates `training`, choose and calibrate on `validation` (of the retriever that serves).

    item_features Float32[N, F]; content Float32[N, C] or None. When no target was
    retrieved there is nothing to learn, and the ranker keeps the retriever's order.
    """
    started = time.perf_counter()
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    training, validation = training.recent(window), validation.recent(window)
    teaching, judging = _hold_out(training, rng)
    items = _item_tower(training, item_features.shape[0], dim, content)
    feature_width, side_width = item_features.shape[1] + 2, training.side.shape[1]
    ranker = Ranker(len(item_features), dim, feature_width, side_width, heads, window, hidden, dropout)
    trainer = _Trainer(ranker, items, torch.from_numpy(item_features), dropout, rng)
    trainer.fit_scales(training)
    ran = trainer.run(teaching, judging, epochs, patience, hard_negatives, learning_rate, weight_decay, show_progress)
    with torch.no_grad():
        ranker.table.copy_(items.all())
        ranker.content_map = items.content_map()
    scores, held_out = score_parts(ranker, validation, item_features), score_parts(ranker, judging, item_features)
    weight = choose_weight([(validation, scores), (judging, held_out)])
    ranker.weight.fill_(weight)
    slope, intercept = fit_platt(scores.combined(weight), validation)
    ranker.platt.copy_(torch.tensor([slope, intercept]))
    report = RankerReport(
        weight=weight,
        retrieval_ndcg=float(ndcg(validation, scores.combined(0.0)).mean()),
        ndcg=float(ndcg(validation, scores.combined(weight)).mean()),
        held_out_retrieval_ndcg=float(ndcg(judging, held_out.combined(0.0)).mean()),
        held_out_ndcg=float(ndcg(judging, held_out.combined(weight)).mean()),
        epochs=ran,
        seconds=time.perf_counter() - started,
    )
    return ranker.eval(), report


def score_parts(ranker: Ranker, candidates: CandidateSet, item_features: Float32) -> RankingScores:
    """Both parts of the logits of every candidate, in batches; padding gets meaningless numbers."""
    return _score_parts(ranker, ranker.table, candidates, torch.from_numpy(item_features))


def score(ranker: Ranker, candidates: CandidateSet, item_features: Float32) -> Float32:
    """Logits [E, K] as the ranker would serve them; -inf at padding."""
    logits = score_parts(ranker, candidates, item_features).combined(float(ranker.weight))
    return np.where(candidates.rows >= 0, logits, -np.inf).astype(np.float32)


class _Trainer:
    """One training run: the ranker, the item tower that feeds it, and their random state."""

    def __init__(
        self, ranker: Ranker, items: ItemTower, item_features: Tensor, dropout: float, rng: np.random.Generator
    ) -> None:
        self.ranker, self.items, self.item_features, self.rng = ranker, items, item_features, rng
        self.dropout = nn.Dropout(dropout)
        self.both = nn.ModuleList([ranker, items, self.dropout])

    def fit_scales(self, training: CandidateSet) -> None:
        """Fix the feature scales, from out-of-fold candidates, and the temperature of retrieval scores."""
        sample = training.subset(self.rng.permutation(len(training))[:SCALE_SAMPLE])
        real = sample.rows >= 0
        rows, channels = torch.from_numpy(sample.rows[real]).long(), torch.from_numpy(sample.channels[real])
        features = torch.cat([self.item_features[rows], channels], dim=1)
        self.ranker.mean.copy_(features.mean(dim=0))
        deviation = features.std(dim=0)
        self.ranker.scale.copy_(torch.where(deviation > FAINT, deviation, 1.0))  # a constant column stays as it is
        retrieval = self.ranker.retrieval(features)
        with torch.no_grad():
            self.ranker.log_temperature.copy_(-retrieval.std().clamp_min(1e-6).log())

    def run(
        self, teaching: CandidateSet, judging: CandidateSet, epochs: int, patience: int, hard_negatives: int,
        learning_rate: float, weight_decay: float, show_progress: bool,
    ) -> int:  # fmt: skip
        """Train until the judges stop gaining, restore the best state, and return the number of epochs run."""
        steps = epochs * -(-len(teaching) // BATCH)
        optimizers = self._optimizers(learning_rate, weight_decay)
        schedules = [
            torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: min(1.0, (step + 1) / WARMUP_STEPS) * max(0.0, 1 - step / max(steps, 1))
            )
            for optimizer in optimizers
        ]
        best, best_state, waited, ran = self._judge(judging), copy.deepcopy(self.both.state_dict()), 0, 0
        for _ in track(range(epochs), "ranker", console=Console(stderr=True), disable=not show_progress):
            self._epoch(teaching, hard_negatives, optimizers, schedules)
            ran += 1
            likelihood = self._judge(judging)
            if likelihood > best:
                best, best_state, waited = likelihood, copy.deepcopy(self.both.state_dict()), 0
            else:
                waited += 1
                if waited >= patience:
                    break
        self.both.load_state_dict(best_state)
        self.both.eval()
        return ran

    def _optimizers(self, learning_rate: float, weight_decay: float) -> list[torch.optim.Optimizer]:
        if not self.items.by_rows:
            return [torch.optim.AdamW(self.both.parameters(), learning_rate, weight_decay=weight_decay)]
        return build_optimizers(self.both, self.items, learning_rate, weight_decay)

    def _epoch(
        self, teaching: CandidateSet, hard_negatives: int, optimizers: list[torch.optim.Optimizer],
        schedules: list[torch.optim.lr_scheduler.LambdaLR],
    ) -> None:  # fmt: skip
        self.both.train()
        if not len(teaching):
            return
        for index in np.array_split(self.rng.permutation(len(teaching)), -(-len(teaching) // BATCH)):
            batch = teaching.subset(index)
            places = draw_hard_negatives(batch, hard_negatives, self.rng)
            loss = self._loss(batch, places)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()

    def _loss(self, batch: CandidateSet, places: Int64) -> Tensor:
        """Listwise softmax of the target (column 0) against the drawn negatives, weighed by example."""
        negatives = np.take_along_axis(batch.rows, places, axis=1)
        rows = np.concatenate([batch.targets[:, None], negatives], axis=1)
        channels = np.concatenate(
            [batch.target_channels[:, None], np.take_along_axis(batch.channels, places[:, :, None], axis=1)], axis=1
        )
        not_negative = (negatives < 0) | (negatives == batch.targets[:, None])
        history, candidates, features = self._gather(batch.history, np.maximum(rows, 0), channels)
        logits = self.ranker(
            history, torch.from_numpy(batch.lengths), candidates, features, torch.from_numpy(batch.side)
        )
        ignored = np.concatenate([np.zeros((len(rows), 1), bool), not_negative], axis=1)
        losses = -torch.log_softmax(logits.masked_fill(torch.from_numpy(ignored), MASKED), dim=1)[:, 0]
        weights = torch.from_numpy(batch.weights)
        return (losses * weights).sum() / weights.sum().clamp_min(1e-6)

    def _gather(self, history: Int64, rows: Int64, channels: Float32) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors of history [B, L, E] and candidates [B, N, E], each distinct item computed once, and features."""
        distinct, places = np.unique(np.concatenate([history.ravel(), rows.ravel()]), return_inverse=True)
        vectors = self.dropout(self.items(torch.from_numpy(distinct)))[torch.from_numpy(places)]
        split = history.size
        features = torch.cat([self.item_features[torch.from_numpy(rows).long()], torch.from_numpy(channels)], dim=-1)
        return vectors[:split].view(*history.shape, -1), vectors[split:].view(*rows.shape, -1), features

    def _judge(self, judging: CandidateSet) -> float:
        self.both.eval()
        with torch.no_grad():
            table = self.items.all()
        likelihood = log_likelihood(
            judging, _score_parts(self.ranker, table, judging, self.item_features).combined(1.0)
        )
        return float(likelihood.mean()) if len(likelihood) else 0.0


@torch.no_grad()
def _score_parts(ranker: Ranker, table: Tensor, candidates: CandidateSet, item_features: Tensor) -> RankingScores:
    ranker.eval()
    retrieval, total, weight = [], [], ranker.weight.clone()
    ranker.weight.fill_(1.0)
    for start in range(0, len(candidates), SCORING_BATCH):
        batch = candidates.subset(slice(start, start + SCORING_BATCH))
        rows = torch.from_numpy(batch.rows).clamp_min(0).long()
        history = table[torch.from_numpy(batch.history).clamp_min(0)]
        features = torch.cat([item_features[rows], torch.from_numpy(batch.channels)], dim=-1)
        lengths, side = torch.from_numpy(batch.lengths), torch.from_numpy(batch.side)
        total.append(ranker(history, lengths, table[rows], features, side).numpy())
        retrieval.append((ranker.retrieval(features) * ranker.log_temperature.exp()).numpy())
    ranker.weight.copy_(weight)
    base = np.concatenate(retrieval)
    return RankingScores(base, np.concatenate(total) - base)


def _hold_out(training: CandidateSet, rng: np.random.Generator) -> tuple[CandidateSet, CandidateSet]:
    """Examples that teach and examples that judge, by user; those whose target was not retrieved teach nothing."""
    training = training.subset(training.weights > 0)
    users = np.unique(training.users)
    judges = rng.choice(users, max(1, round(HELD_OUT * len(users))), replace=False)
    judging = np.isin(training.users, judges)
    return training.subset(~judging & training.found().any(axis=1)), training.subset(judging)


def _item_tower(training: CandidateSet, n_items: int, dim: int, content: Content | None) -> ItemTower:
    """Items that occur in no history and are no target keep only their content part."""
    known = np.zeros(n_items, bool)
    known[training.history[training.history >= 0]] = True
    known[training.targets] = True
    return ItemTower(
        n_items,
        dim,
        None if content is None else as_content(content),
        known=torch.from_numpy(known),
        id_dropout=0.1,
        init_std=0.1,
    )
