"""SASRec (Kang & McAuley 2018), the sequential baseline: a causal transformer over item embeddings alone.

The published tower, width 64 and two blocks, trained with the full softmax instead of one negative per positive, which
makes it a much stronger baseline (Klenitskiy & Vasilev 2023). `PUBLISHED` keeps the usual settings, `TUNED` gives it
what we give our own towers. It sees no content, no context and no linear channel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from shortlist.data.log import InteractionLog
from shortlist.data.splits import Examples, Split
from shortlist.evaluation.recommender import CatalogueScorer
from shortlist.models.items import ItemTower
from shortlist.training.loop import TrainingSettings, train_tower
from shortlist.types import Float32

LONG_SEQUENCES = 50  # mean training events per user above which the longer of the two published windows is used
WINDOWS = (50, 200)


@dataclass(frozen=True)
class Recipe:
    """How a SASRec tower is trained."""

    name: str
    learning_rate: float
    epochs: int
    mask_softmax: bool  # leave seen items out of the training softmax, where the ranking leaves them out too
    dim: int = 64
    layers: int = 2
    heads: int = 1
    dropout: float = 0.2
    patience: int = 5


PUBLISHED = Recipe("sasrec", learning_rate=1e-3, epochs=100, mask_softmax=False)
TUNED = Recipe("sasrec-tuned", learning_rate=3e-3, epochs=30, mask_softmax=True)


class SASRec(CatalogueScorer):
    """A trained SASRec tower over the items of one log."""

    def __init__(self, name: str, train: InteractionLog, mask_seen: bool, tower: SASRecTower, items: ItemTower) -> None:
        super().__init__(name, train, mask_seen)
        self.tower, self.items = tower.eval(), items.eval()

    @classmethod
    def fit(
        cls,
        split: Split,
        mask_seen: bool,
        recipe: Recipe = PUBLISHED,
        *,
        seed: int = 0,
        show_progress: bool = False,
    ) -> Self:
        """Train on `split.train`, stopping by the validation examples."""
        torch.manual_seed(seed)
        window = published_window(split.train)
        items = ItemTower(split.train.n_items, recipe.dim)
        tower = SASRecTower(
            recipe.dim, layers=recipe.layers, heads=recipe.heads, history=window, dropout=recipe.dropout
        )
        train_tower(
            tower,
            items,
            split.train,
            split.validation,
            TrainingSettings(
                window=window,
                epochs=recipe.epochs,
                patience=recipe.patience,
                learning_rate=recipe.learning_rate,
                mask_seen=mask_seen and recipe.mask_softmax,
                mask_validation=mask_seen,
                seed=seed,
            ),
            show_progress=show_progress,
            title=recipe.name,
        )
        return cls(recipe.name, split.train, mask_seen, tower, items)

    @torch.no_grad()
    def score(self, examples: Examples, start: int, stop: int) -> Float32:
        """Inner products of the state after the last event with all items, Float32[B, N]."""
        rows, lengths = (torch.from_numpy(a) for a in examples.histories(start, stop, self.tower.history))
        states = self.tower(self.items(rows), lengths, torch.zeros(len(rows), 0))
        scores: Float32 = (states @ self.items.all().T).numpy()
        return scores


class SASRecTower(nn.Module):
    """User vectors [D] from item vectors of the history, oldest first and right-padded; side features are ignored."""

    def __init__(self, dim: int, *, layers: int, heads: int, history: int, dropout: float) -> None:
        super().__init__()
        self.history, self.scale = history, math.sqrt(dim)
        self.positions = nn.Parameter(torch.randn(history, dim) * 0.02)  # [0] is the most recent event
        self.blocks = nn.ModuleList(SASRecBlock(dim, heads, dropout) for _ in range(layers))
        self.normalize = nn.LayerNorm(dim)
        self.default = nn.Parameter(torch.zeros(dim))  # the state of an empty history
        self.dropout = nn.Dropout(dropout)

    def forward(self, history: Tensor, lengths: Tensor, side: Tensor) -> Tensor:
        """Vector after the whole history: [B, L, D], Int64[B], [B, S] -> [B, D]."""
        if not history.shape[1]:
            return self.default.expand(len(history), -1)
        states = self.forward_all(history, lengths, side)
        last = (lengths - 1).clamp_min(0)[:, None, None].expand(-1, 1, states.shape[2])
        state: Tensor = torch.where(lengths[:, None] > 0, states.gather(1, last)[:, 0], self.default)
        return state

    def forward_all(self, history: Tensor, lengths: Tensor, side: Tensor) -> Tensor:
        """Vector after each position: [B, L, D], Int64[B] -> [B, L, D]; past `lengths`, noise."""
        steps = torch.arange(history.shape[1], device=history.device)
        ages = (lengths[:, None] - 1 - steps).clamp(0, self.history - 1)
        x = self.dropout(history * self.scale + self.positions[ages])
        for block in self.blocks:
            x = block(x)
        states: Tensor = self.normalize(x)
        return states


class SASRecBlock(nn.Module):
    """Causal self-attention and a point-wise feed-forward network, each normalised before and added after."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.before_attention, self.before_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key_value, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]. As published, keys and values are not normalised, and queries carry the residual."""
        queries = self.before_attention(x)
        x = queries + self.dropout(self.attend(queries, x))
        h = self.before_mlp(x)
        mixed: Tensor = h + self.dropout(self.down(self.dropout(functional.relu(self.up(h)))))
        return mixed

    def attend(self, queries: Tensor, x: Tensor) -> Tensor:
        """Attention from `queries` to positions of `x` that are not later, both [B, L, D]."""
        batch, length, dim = x.shape
        q = self.query(queries).view(batch, length, self.heads, -1).transpose(1, 2)
        k, v = self.key_value(x).view(batch, length, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        rate = self.rate if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)
        attended: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, dim))
        return attended


def published_window(train: InteractionLog) -> int:
    """Most recent events that the tower reads: 200 where users have long histories (as on MovieLens), else 50."""
    short, long = WINDOWS
    lengths = train.lengths()
    active = lengths[lengths > 0]
    return long if len(active) and active.mean() > LONG_SEQUENCES else short
