"""Made-up selection problems, and the questions that MMR and DPP are both asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Selection:
    """What a batch asks of MMR or DPP; `items` [M, D], `rows` [B, N] and so on, as in `shortlist.kernels.mmr`."""

    items: NDArray[Any]
    rows: NDArray[np.int32]
    relevance: NDArray[np.float32]
    trade_off: NDArray[np.float32]
    k: int = 10

    def by(self, select: Any, **options: Any) -> NDArray[np.int32]:
        """What `select` picks."""
        picks: NDArray[np.int32] = select(self.items, self.rows, self.relevance, self.trade_off, self.k, **options)
        return picks

    def but(self, **changes: Any) -> Selection:
        """The same with changes."""
        return replace(self, **changes)


def draw(
    seed: int, batch: int = 3, count: int = 40, dim: int = 16, k: int = 10, dtype: str = "float32", missing: float = 0.2
) -> Selection:
    """Unit vectors around few centres, so that similarities span 0 to 1; a share of the rows is -1, anywhere."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, dim)) + rng.normal(size=dim)
    vectors = centres[rng.integers(0, 5, count + 7)] + 0.4 * rng.normal(size=(count + 7, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = rng.integers(0, count + 7, (batch, count)).astype(np.int32)
    rows[rng.random(rows.shape) < missing] = -1
    relevance = rng.random(rows.shape).astype(np.float32)
    return Selection(vectors.astype(dtype), rows, relevance, rng.random(batch).astype(np.float32), k)


def distinct(seed: int, count: int = 30, k: int = 10) -> Selection:
    """One request whose candidates are all there, and no two the same."""
    problem = draw(seed, 1, count, k=k, missing=0)
    return problem.but(rows=np.random.default_rng(seed).permutation(count)[None].astype(np.int32))
