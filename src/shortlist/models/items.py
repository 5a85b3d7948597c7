"""The item tower: an id embedding plus a linear map of the item's content, one vector per catalogue row.

Items unseen in training have no id part, so their content vector stands alone; dropping ids in training teaches the
content map to do so. It knows nothing of users; towers read its vectors, and export stores them in one table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from shortlist.types import Float32

if TYPE_CHECKING:
    from scipy import sparse

ROWS_FROM = 50_000  # items from which on the ids' gradient holds only the rows that a step touched


class ItemTower(nn.Module):
    """Vectors of N items, width D."""

    def __init__(
        self,
        n_items: int,
        dim: int,
        content: Tensor | sparse.csr_matrix | None = None,
        *,
        known: Tensor | None = None,
        id_dropout: float = 0.0,
        init_std: float = 0.02,
    ) -> None:
        """`content` Float32[N, C], dense or sparse; `known` Bool[N] marks the items seen in training (None: all).

        `id_dropout` is the share of items whose id part is hidden for one training step; it needs content.
        """
        super().__init__()
        if content is not None and content.shape[0] != n_items:
            raise ValueError(f"content has {content.shape[0]} rows, the catalogue {n_items} items")
        self.id_dropout = id_dropout if content is not None else 0.0
        self.embedding = nn.Parameter(torch.randn(n_items, dim) * init_std)
        self.content = None if content is None else _content(content, dim, init_std)
        mask = torch.ones(n_items, 1) if known is None else known.float().reshape(n_items, 1)
        self.register_buffer("known", mask, persistent=False)

    @property
    def dim(self) -> int:
        return self.embedding.shape[1]

    @property
    def by_rows(self) -> bool:
        """Whether the gradient of the embedding is sparse."""
        return len(self.embedding) > ROWS_FROM

    def content_map(self) -> Float32 | None:
        """[C, D]: content times it is the vector of an item that nobody knows; None where items have no content."""
        if self.content is None:
            return None
        project = self.content.project
        weights = project if isinstance(project, nn.Parameter) else project.weight.T
        return np.array(weights.detach().cpu().numpy(), np.float32, order="C")

    def all(self) -> Tensor:
        """Vectors of the whole catalogue, [N, D]."""
        return self._vectors(self.embedding, cast(Tensor, self.known), None)

    def forward(self, rows: Tensor) -> Tensor:
        """Vectors of `rows` Int64[...] -> [..., D]; row -1 is padding and gives zeros."""
        index = rows.clamp_min(0).flatten()
        ids = functional.embedding(index, self.embedding, sparse=True) if self.by_rows else self.embedding[index]
        vectors = self._vectors(ids, cast(Tensor, self.known)[index], index)
        return vectors.reshape(*rows.shape, self.dim) * (rows >= 0).unsqueeze(-1)

    def _vectors(self, ids: Tensor, known: Tensor, index: Tensor | None) -> Tensor:
        if self.training and self.id_dropout:
            known = known * (torch.rand_like(known) >= self.id_dropout)
        vectors = ids * known
        if self.content is not None:
            vectors = vectors + self.content(index)
        return vectors


def _content(content: Tensor | sparse.csr_matrix, dim: int, init_std: float) -> DenseContent | SparseContent:
    return DenseContent(content, dim) if isinstance(content, Tensor) else SparseContent(content, dim, init_std)


def as_content(content: Float32 | sparse.csr_matrix) -> Tensor | sparse.csr_matrix:
    """Content [N, C] as the tower takes it: a dense array becomes a tensor that shares its memory."""
    return torch.from_numpy(content) if isinstance(content, np.ndarray) else content


class DenseContent(nn.Module):
    """A linear map of content [N, C]."""

    def __init__(self, content: Tensor, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", content, persistent=False)
        self.project = nn.Linear(content.shape[1], dim, bias=False)

    def forward(self, index: Tensor | None) -> Tensor:
        """Content part of the items at `index` Int64[n], of all without one: [n, D]."""
        rows = cast(Tensor, self.rows)
        mapped: Tensor = self.project(rows if index is None else rows[index])
        return mapped


class SparseContent(nn.Module):
    """The same map of content that is mostly zeros: the sum of the vectors of an item's features."""

    def __init__(self, content: sparse.csr_matrix, dim: int, init_std: float) -> None:
        super().__init__()
        counts = np.diff(content.indptr)
        most = max(1, int(counts.max(initial=0)))
        row = np.repeat(np.arange(len(counts)), counts)
        at = row, np.arange(content.nnz) - np.repeat(content.indptr[:-1], counts)
        features = np.zeros((content.shape[0], most), np.int32)
        weights = np.zeros((content.shape[0], most), np.float32)
        features[at], weights[at] = content.indices, content.data
        self.register_buffer("features", torch.from_numpy(features), persistent=False)
        self.register_buffer("weights", torch.from_numpy(weights), persistent=False)
        self.project = nn.Parameter(torch.randn(content.shape[1], dim) * (init_std * most**-0.5))

    def forward(self, index: Tensor | None) -> Tensor:
        """Content part of the items at `index` Int64[n], of all without one: [n, D]."""
        features, weights = cast(Tensor, self.features), cast(Tensor, self.weights)
        if index is not None:
            features, weights = features[index], weights[index]
        summed: Tensor = functional.embedding_bag(features, self.project, per_sample_weights=weights, mode="sum")
        return summed
