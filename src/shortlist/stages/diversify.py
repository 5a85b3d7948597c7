"""Stage 4: greedy MMR or DPP over the ranked candidates, and exploration where a deployment asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit

from shortlist.bundle import Bundle
from shortlist.catalog import Catalog
from shortlist.config import CascadeConfig
from shortlist.devices import Device
from shortlist.devices.cpu import Cpu
from shortlist.kernels.selection import MOST
from shortlist.types import Candidates, Float32, Int32


class Diversify:
    """Chooses slates so that items are relevant and unlike each other (cosine of the bundle's diversity vectors).

    Relevance is the sigmoid of the last stage's score, standardised by constants fitted in training: comparable with
    a cosine, the same for every request.
    """

    def __init__(self, bundle: Bundle, catalog: Catalog, config: CascadeConfig, device: Device | None = None) -> None:
        device = device or Cpu()
        scales: dict[str, tuple[float, float]] = bundle.document("scales")
        self.items = device.keep(bundle.array("diversity_items"))  # float16 [items, D], of unit length
        if len(self.items) != len(catalog.table):
            raise ValueError(f"diversity_items has {len(self.items)} rows, the catalogue {len(catalog.table)}")
        self.groups: Int32 | None = device.keep(bundle.array("item_groups")) if config.group_by else None
        self.scales = {stage: (float(mean), float(deviation)) for stage, (mean, deviation) in scales.items()}
        self._max_per_group = config.max_per_group or 0
        self._select = device.dpp if config.diversifier == "dpp" else device.mmr
        self._relevance = _relevance if device.name == "cpu" else _relevance_on_device
        self._contiguous = device.xp.ascontiguousarray

    def __call__(self, candidates: Candidates, stage: str, diversity: Float32, k: int) -> Int32:
        """Positions [B, K] of the chosen candidates in slate order, -1 where there are fewer.

        `stage` names whose scores the candidates carry; `diversity` [B] is 1 - λ. A cap on groups is kept, and slates
        get shorter where candidates of other groups run out. Only the first 1,024 candidates are looked at.
        """
        rows, scores = candidates.rows[:, :MOST], self._contiguous(candidates.scores[:, :MOST])
        relevance = self._relevance(scores, *self.scales[stage], stage in ("rank", "popularity"))
        trade_off = np.float32(1) - diversity
        picks: Int32 = self._select(
            self.items, rows, relevance, trade_off, k, groups=self.groups, max_per_group=self._max_per_group
        )
        return picks


def joined(parts: Sequence[Float32]) -> Float32:
    """Unit vectors [N, ΣD] whose cosine is the mean of the cosines of the `parts` [N, D]."""
    return _unit(np.concatenate([_unit(part) for part in parts], axis=1))


def _unit(vectors: Float32) -> Float32:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Float32 = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0).astype(np.float32)
    return unit


@njit(nogil=True, no_cfunc_wrapper=True)
def _relevance(scores: Float32, mean: float, deviation: float, probabilities: bool) -> Float32:
    """Scores [B, N] as relevance between 0 and 1; what is no number is the least relevant."""
    relevance = np.empty(scores.shape, np.float32)
    smallest, largest = np.float32(1e-7), np.float32(1 - 1e-7)
    for b in range(scores.shape[0]):
        for n in range(scores.shape[1]):
            score = scores[b, n] if scores[b, n] == scores[b, n] else np.float32(-np.inf)
            if probabilities:
                safe = min(max(score, smallest), largest)
                score = np.log(safe / (np.float32(1) - safe))
            z = min(max((score - np.float32(mean)) / np.float32(deviation), np.float32(-30)), np.float32(30))
            relevance[b, n] = np.float32(1) / (np.float32(1) + np.exp(-z))
    return relevance


def _relevance_on_device(scores: Any, mean: float, deviation: float, probabilities: bool) -> Any:
    """`_relevance` for arrays of another device: NumPy's functions hand over to their library."""
    scores = np.where(np.isnan(scores), np.float32(-np.inf), scores)
    if probabilities:
        safe = np.clip(scores, np.float32(1e-7), np.float32(1 - 1e-7))
        scores = np.log(safe / (np.float32(1) - safe))
    z = np.clip((scores - np.float32(mean)) / np.float32(deviation), np.float32(-30), np.float32(30))
    return np.float32(1) / (np.float32(1) + np.exp(-z))


def explore(picks: Int32, count: int, rate: float, rng: np.random.Generator) -> tuple[Int32, Float32]:
    """With probability `rate` a slot shows a uniformly drawn candidate instead (ε-greedy, slot by slot).

    `picks` [K] are positions among `count` candidates, without -1. Returns the positions shown, all different, and the
    probability [K] that each was shown in its slot given the slots before it.
    """
    plan: list[int] = picks.tolist()
    shown: list[int] = []
    propensities = np.ones(len(plan), np.float32)
    for slot in range(len(plan)):
        choice = planned = next(p for p in plan if p not in shown)
        if rng.random() < rate:
            choice = int(rng.choice([i for i in range(count) if i not in shown]))
        propensities[slot] = rate / (count - slot) + (1 - rate) * (choice == planned)
        shown.append(choice)
    return np.array(shown, np.int32), propensities
