"""The stages of the cascade, one file each. A stage turns the candidates of the one before into fewer, better ones."""

from __future__ import annotations

from typing import Protocol

from shortlist.types import Candidates, UserBatch


class Stage(Protocol):
    """Filter and rank: score every candidate for itself, keep the best `depth`. The device is its own affair."""

    def __call__(self, users: UserBatch, candidates: Candidates, depth: int) -> Candidates:
        """Best `depth` of `candidates`, best first, with this stage's scores."""
        ...
