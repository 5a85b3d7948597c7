"""All features of a run: fitted on the training log, computed for every item and user, and kept for serving.

`fit_features` is called once per run. Its `to_document` is the bundle's features.json, from which a server makes the
`FeatureEncoders` again: the rows that training saw and the rows that serving makes come from the same code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import polars as pl

from shortlist.config import AttributeKind
from shortlist.data.columns import PERIODS
from shortlist.data.dataset import Dataset
from shortlist.data.encoders import FeatureEncoder, FeatureEncoders
from shortlist.data.item_statistics import item_statistics
from shortlist.data.log import InteractionLog
from shortlist.data.splits import Examples, Split
from shortlist.types import Bool, Float32

if TYPE_CHECKING:
    from scipy import sparse

    Content: TypeAlias = Float32 | sparse.csr_matrix

DENSE_CELLS = 2**24  # values of item content that are held as a dense matrix: 64 MB


@dataclass(frozen=True, eq=False)
class Features(FeatureEncoders):
    """The encoders, and what they make of every item and user of a data set."""

    item_content: Content  # [N, C] from attributes alone, so that new items have it too
    item_features: Float32  # [N, F] from the training log
    user_features: Float32  # [U, Fu]
    item_feature_names: list[str]  # [F]

    def context(self, examples: Examples, start: int = 0, stop: int | None = None) -> Float32:
        """Context features of the targets of examples start:stop, [B, Fc]."""
        stop = len(examples) if stop is None else min(stop, len(examples))
        return self.context_encoder.transform(examples.contexts(start, stop), stop - start)

    def side(self, examples: Examples, start: int = 0, stop: int | None = None) -> Float32:
        """[user features | context features] of examples start:stop, [B, S]."""
        users = self.user_features[examples.users[start:stop]]
        return np.concatenate([users, self.context(examples, start, stop)], axis=1)


def fit_features(dataset: Dataset, train: Split | InteractionLog) -> Features:
    """Fit on the items, users and events of the training log alone; then compute the rows of all items and users.

    Attributes of items and users count as known beforehand, but those that never occur in training fit nothing.
    """
    log = train.train if isinstance(train, Split) else train
    _require_same_rows(dataset, log)
    known_items, known_users = log.popularity() > 0, log.lengths() > 0
    item_encoder = _fit_table(dataset.items, dataset.item_attributes, known_items)
    user_encoder = _fit_table(dataset.users, dataset.user_attributes, known_users)
    names, item_features = item_statistics(log)
    return Features(
        item_encoder=item_encoder,
        user_encoder=user_encoder,
        context_encoder=_fit_context(dataset, log),
        item_content=_content(item_encoder, _columns(dataset.items, dataset.item_attributes), log.n_items),
        item_features=item_features,
        user_features=user_encoder.transform(_columns(dataset.users, dataset.user_attributes), log.n_users),
        item_feature_names=names,
    )


def _fit_table(table: pl.DataFrame, kinds: Mapping[str, AttributeKind], known: Bool) -> FeatureEncoder:
    return FeatureEncoder.fit(kinds, _columns(table.filter(pl.Series(known)), kinds))


def _content(encoder: FeatureEncoder, columns: Mapping[str, list[Any]], size: int) -> Content:
    """Rows [N, C] of all items; mostly zeros where there are many of them, and then not kept."""
    if size * encoder.width <= DENSE_CELLS:
        return encoder.transform(columns, size)
    return encoder.transform_sparse(columns, size)


def _fit_context(dataset: Dataset, log: InteractionLog) -> FeatureEncoder:
    """Hour and weekday where there is time, then the context columns of the data."""
    events = Examples.every(log, first=0)
    kinds = dict.fromkeys(PERIODS, "cyclic") if log.has_timestamps else {}
    kinds |= {name: kind for name, kind in dataset.context_attributes.items() if name not in kinds}
    return FeatureEncoder.fit(kinds, events.contexts(0, len(events)))


def _columns(table: pl.DataFrame, names: Iterable[str]) -> dict[str, list[Any]]:
    return {name: table[name].to_list() for name in names}


def _require_same_rows(dataset: Dataset, log: InteractionLog) -> None:
    sizes = (len(dataset.items), len(dataset.users))
    if sizes != (log.n_items, log.n_users):
        raise ValueError(f"the log has {log.n_items} items and {log.n_users} users, its data set {sizes}")
