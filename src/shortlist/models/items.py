"""The item tower: an id embedding plus a linear map of the item's content, one vector per catalogue row.

Items unseen in training have no id part, so their content vector stands alone; dropping ids in training teaches the
content map to do so. It knows nothing of users; towers read its vectors, and export stores them in one table.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class ItemTower(nn.Module):
    """Vectors of N items, width D."""

    def __init__(
        self,
        n_items: int,
        dim: int,
        content: Tensor | None = None,
        *,
        known: Tensor | None = None,
        id_dropout: float = 0.0,
        init_std: float = 0.02,
    ) -> None:
        """`content` Float32[N, C]; `known` Bool[N] marks the items seen in training (None: all of them).

        `id_dropout` is the share of items whose id part is hidden for one training step; it needs content.
        """
        super().__init__()
        if content is not None and len(content) != n_items:
            raise ValueError(f"content has {len(content)} rows, the catalogue {n_items} items")
        self.id_dropout = id_dropout if content is not None else 0.0
        self.embedding = nn.Parameter(torch.randn(n_items, dim) * init_std)
        self.project = None if content is None else nn.Linear(content.shape[1], dim, bias=False)
        self.register_buffer("content", content, persistent=False)
        mask = torch.ones(n_items, 1) if known is None else known.float().reshape(n_items, 1)
        self.register_buffer("known", mask, persistent=False)

    @property
    def dim(self) -> int:
        return self.embedding.shape[1]

    def all(self) -> Tensor:
        """Vectors of the whole catalogue, [N, D]."""
        return self._vectors(self.embedding, cast(Tensor, self.known), cast("Tensor | None", self.content))

    def forward(self, rows: Tensor) -> Tensor:
        """Vectors of `rows` Int64[...] -> [..., D]; row -1 is padding and gives zeros."""
        index = rows.clamp_min(0).flatten()
        content = cast("Tensor | None", self.content)
        vectors = self._vectors(
            self.embedding[index], cast(Tensor, self.known)[index], None if content is None else content[index]
        )
        return vectors.reshape(*rows.shape, -1) * (rows >= 0).unsqueeze(-1)

    def _vectors(self, ids: Tensor, known: Tensor, content: Tensor | None) -> Tensor:
        if self.training and self.id_dropout:
            known = known * (torch.rand_like(known) >= self.id_dropout)
        vectors = ids * known
        if self.project is not None and content is not None:
            vectors = vectors + self.project(content)
        return vectors
