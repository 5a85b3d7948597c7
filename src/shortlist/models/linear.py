"""Item-item channels in closed form: recency-weighted EASE and a directed ridge, kept as a sparse matrix.

A channel scores item c by the sum over the history of decay ** age · B[item, c]. `ease` (Steck, arXiv 1905.03375) asks
which items go together, and with `kernel` below 1 how near in the sequence; `directed_ridge` asks which item comes
next. Dense up to 20,000 items, beyond that every target is solved on its own sources (SLIM with selected features,
Ning & Karypis 2011). How channels are weighed against each other is `training.retriever`'s business.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy import linalg, sparse

from shortlist.data.log import InteractionLog
from shortlist.types import Float32, Int32, Int64

DENSE_LIMIT = 20_000  # items up to which the N x N matrix of EASE is inverted
SOURCES = 150  # items that may explain one target where each target is solved on its own
NEGLIGIBLE = 1e-3  # weights of history items below this are left out of the statistics
CHUNK = 20_000_000  # history items gathered at a time


@dataclass(frozen=True, eq=False)
class LinearChannel:
    """Sparse item-item weights [N, N] in CSR form (row: item of the history) and the decay they are scored with."""

    indptr: Int64  # [N + 1]
    indices: Int32  # [nnz]
    values: Float32  # [nnz]
    decay: float

    @property
    def n_items(self) -> int:
        return len(self.indptr) - 1

    def score(self, rows: Int64, lengths: Int64) -> Float32:
        """Scores [B, N] of histories Int64[B, L], oldest first, right-padded with -1; age 0 is the latest event."""
        ages = lengths[:, None] - 1 - np.arange(rows.shape[1])
        batch, place = np.nonzero(ages >= 0)
        weights = (self.decay ** ages[batch, place]).astype(np.float32)
        history = sparse.csr_matrix((weights, (batch, rows[batch, place])), shape=(len(rows), self.n_items))
        scores: Float32 = (history @ self.matrix()).toarray()
        return scores

    def scaled(self, weight: float) -> LinearChannel:
        """The channel with all its weights times `weight`."""
        return LinearChannel(self.indptr, self.indices, self.values * np.float32(weight), self.decay)

    def reordered(self, order: Int64) -> LinearChannel:
        """The channel of the same items in another order: row i is what was row `order[i]`, [N]."""
        weights = self.matrix()[order][:, order]
        weights.sort_indices()
        return LinearChannel(weights.indptr, weights.indices, weights.data, self.decay)

    def matrix(self) -> sparse.csr_matrix:
        """The weights as a SciPy matrix."""
        return sparse.csr_matrix((self.values, self.indices, self.indptr), shape=(self.n_items, self.n_items))


def ease(
    log: InteractionLog,
    regularization: float,
    decay: float,
    neighbours: int,
    *,
    kernel: float = 1.0,
    dense_limit: int = DENSE_LIMIT,
) -> LinearChannel:
    """EASE: every item explained by the others, from which items users have together.

    With `kernel` below 1 a pair counts kernel ** distance in the sequence, so that neighbours in time weigh more.
    """
    gram = _gram(log, kernel)
    if log.n_items <= dense_limit:
        return truncate(sparse.csr_matrix(_invert(gram, regularization)), neighbours, decay)
    others = gram - sparse.diags(gram.diagonal())
    others.eliminate_zeros()
    return truncate(_solve_by_target(gram, others.tocsc(), regularization, SOURCES), neighbours, decay)


def directed_ridge(
    log: InteractionLog,
    regularization: float,
    decay: float,
    neighbours: int,
    *,
    kernel: float | None = None,
    backward: float = 0.0,
    sources: int = SOURCES,
) -> LinearChannel:
    """Ridge regression from the decayed history before each event to the event's item.

    The regression's histories decay by `kernel` (None: by `decay`), scoring by `decay`. Pairs in the opposite order
    count `backward` times: on sparse data "before" says something of "after". Each target is solved on the `sources`
    items that best predict it one by one, so nothing dense is ever held.
    """
    gram = _square(log.n_items)
    pairs = _square(log.n_items)
    for history, targets in _decayed_histories(log, decay if kernel is None else kernel):
        gram = gram + history.T @ history
        pairs = pairs + history.T @ targets
    if backward:
        pairs = pairs + backward * pairs.T
    return truncate(_solve_by_target(gram.tocsr(), pairs.tocsc(), regularization, sources), neighbours, decay)


def _gram(log: InteractionLog, kernel: float) -> sparse.csr_matrix:
    """How often each pair of items occurs together, [N, N]; pairs of one user weigh kernel ** distance."""
    if kernel >= 1:
        users = sparse.csr_matrix(
            (np.ones(len(log), np.float32), (log.users(), log.rows)), shape=(log.n_users, log.n_items)
        )
        users.data[:] = 1  # whoever had an item twice had it
        return (users.T @ users).tocsr()
    pairs = _square(log.n_items)
    for history, targets in _decayed_histories(log, kernel):
        pairs = pairs + kernel * (history.T @ targets)
    return (pairs + pairs.T + sparse.diags(log.popularity().astype(np.float32))).tocsr()


def _decayed_histories(log: InteractionLog, decay: float) -> Iterator[tuple[sparse.csr_matrix, sparse.csr_matrix]]:
    """Chunks of T events: the history before each, weighed by decay ** age, and the event itself; both [T, N]."""
    longest = int(log.lengths().max(initial=1))
    reach = longest if decay >= 1 else min(longest, max(1, int(np.log(NEGLIGIBLE) / np.log(decay))))
    positions = log.positions()
    step = max(1, CHUNK // reach)
    for start in range(0, len(log), step):
        events = np.arange(start, min(start + step, len(log)))
        distances = np.arange(1, reach + 1)
        real = distances <= positions[events, None]
        event, place = np.nonzero(real)
        items = log.rows[events[event] - distances[place]]
        weights = (decay ** (distances[place] - 1)).astype(np.float32)
        shape = (len(events), log.n_items)
        history = sparse.csr_matrix((weights, (event, items)), shape=shape)
        ones = np.ones(len(events), np.float32)
        yield history, sparse.csr_matrix((ones, log.rows[events], np.arange(len(events) + 1)), shape=shape)


def _invert(gram: sparse.csr_matrix, regularization: float) -> Float32:
    """B = -P / diag(P) with a zero diagonal, where P is the inverse of gram + regularization · I."""
    dense = gram.toarray().astype(np.float32)
    dense[np.diag_indices_from(dense)] += np.float32(regularization)
    factor, failed = linalg.lapack.spotrf(dense, lower=0, overwrite_a=1)
    if failed:
        raise ValueError(f"the Gram matrix is not positive definite at regularization {regularization}; raise it")
    upper, _ = linalg.lapack.spotri(factor, lower=0, overwrite_c=1)
    inverse = np.triu(upper)
    inverse += np.triu(inverse, 1).T
    weights: Float32 = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


def _solve_by_target(
    gram: sparse.csr_matrix, pairs: sparse.csc_matrix, regularization: float, sources: int
) -> sparse.csr_matrix:
    """Ridge of each target [column of pairs] on its best sources, as sparse weights [N, N]."""
    appeal = 1 / np.sqrt(gram.diagonal() + regularization)
    gram.sort_indices()
    columns = _solve_columns(
        gram.indptr.astype(np.int64), gram.indices, gram.data.astype(np.float32),
        pairs.indptr.astype(np.int64), pairs.indices, pairs.data.astype(np.float32),
        appeal.astype(np.float32), np.float32(regularization), sources,
    )  # fmt: skip
    indptr, indices, values = columns
    return sparse.csc_matrix((values, indices, indptr), shape=gram.shape).tocsr()


@njit(nogil=True, cache=True)
def _solve_columns(
    gram_indptr: Int64, gram_indices: Int32, gram_values: Float32,
    indptr: Int64, indices: Int32, values: Float32,
    appeal: Float32, regularization: np.float32, sources: int,
) -> tuple[Int64, Int32, Float32]:  # fmt: skip
    n = len(appeal)
    ends = np.zeros(n + 1, np.int64)
    ends[1:] = np.cumsum(np.minimum(np.diff(indptr), sources))
    found, weights = np.empty(ends[-1], np.int32), np.empty(ends[-1], np.float32)
    place = np.full(n, -1, np.int32)
    for target in range(n):
        chosen, wanted = indices[indptr[target] : indptr[target + 1]], values[indptr[target] : indptr[target + 1]]
        if len(chosen) == 0:
            continue
        if len(chosen) > sources:
            best = np.argsort(-wanted * appeal[chosen])[:sources]
            chosen, wanted = chosen[best], wanted[best]
        count = len(chosen)
        for k in range(count):
            place[chosen[k]] = k
        system = np.zeros((count, count), np.float32)
        for k in range(count):
            for p in range(gram_indptr[chosen[k]], gram_indptr[chosen[k] + 1]):
                column = place[gram_indices[p]]
                if column >= 0:
                    system[k, column] = gram_values[p]
            system[k, k] += regularization
        solved = np.linalg.solve(system, wanted)
        for k in range(count):
            place[chosen[k]] = -1
            found[ends[target] + k], weights[ends[target] + k] = chosen[k], solved[k]
    return ends, found, weights


def truncate(weights: sparse.csr_matrix, neighbours: int, decay: float) -> LinearChannel:
    """The channel of `weights` [N, N] that keeps the `neighbours` weights of largest magnitude of each row."""
    weights.eliminate_zeros()
    weights.sort_indices()
    lengths = np.diff(weights.indptr)
    row = np.repeat(np.arange(weights.shape[0]), lengths)
    order = np.lexsort((-np.abs(weights.data), row))
    rank = np.arange(len(row)) - np.repeat(weights.indptr[:-1].astype(np.int64), lengths)
    kept = np.sort(order[rank < neighbours])
    indptr = np.concatenate([[0], np.cumsum(np.minimum(lengths, neighbours))]).astype(np.int64)
    return LinearChannel(
        indptr, weights.indices[kept].astype(np.int32), weights.data[kept].astype(np.float32), float(decay)
    )


def _square(n: int) -> sparse.csr_matrix:
    return sparse.csr_matrix((n, n), dtype=np.float32)
