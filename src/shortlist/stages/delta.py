"""New items as rows of the item tables: what the bundle would hold of them, had it known them without anybody's events.

The bundle's encoders turn attributes into content, and its content maps turn content into the vectors of each table:
the same numbers that training gives an item that nobody has had yet. Which items there are is for
`shortlist.stages.assortment` to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.catalog import Catalog, GrowingIds
from shortlist.config import CascadeConfig
from shortlist.data.columns import Encoder, Text
from shortlist.data.encoders import FeatureEncoder, FeatureEncoders
from shortlist.data.values import LARGEST, refuse
from shortlist.devices import Device
from shortlist.errors import BundleError
from shortlist.room import RoomyBundle
from shortlist.stages.diversify import joined
from shortlist.types import Float32

RETRIEVAL, RANKER, DIVERSITY = "content_retrieval", "content_ranker", "content_diversity"  # maps [C, ·] of a bundle
FEATURES, SCALE, GROUPS = "new_item_features", "filter_scale", "item_group_values"
INT8 = 127


class Delta:
    """The room of a bundle's item tables, filled row by row."""

    def __init__(self, bundle: RoomyBundle, catalog: Catalog, config: CascadeConfig) -> None:
        """Raises BundleError when the bundle does not say how to make vectors of attributes."""
        require_maps(bundle)
        self._encoder = FeatureEncoders.from_document(bundle.document("features")).item_encoder
        self._maps = {name: bundle.array(name) for name in (RETRIEVAL, RANKER)}
        self._axes = bundle.array(DIVERSITY) if bundle.has(f"{DIVERSITY}.npy") else None
        self._features: Float32 = bundle.array(FEATURES)
        self._scale = bundle.array(SCALE) if bundle.has(f"{SCALE}.npy") else None
        self._columns = catalog.columns
        self._tables = {name: bundle.new_rows(name) for name in ("table", "filter_items", "diversity_items")}
        self._group_by = config.group_by
        if self._group_by:
            self._groups = bundle.new_rows("item_groups")
            self._group_numbers = {value: number for number, value in enumerate(bundle.document(GROUPS))}

    def check(self, attributes: Mapping[str, Any]) -> None:
        """Raise RequestError for the first attribute that is none of the bundle's, or has a value that cannot be."""
        check(self._encoder, self._group_by, attributes)

    def write(self, place: int, attributes: Mapping[str, Any]) -> None:
        """Put an item into row `place` of the room. Its attributes are checked."""
        content = self._encoder.row({name: _spelt(value) for name, value in attributes.items()})
        vector, ranker = (content @ self._maps[name] for name in (RETRIEVAL, RANKER))
        row = self._tables["table"][place]
        for name, part in (
            ("retrieval", vector),
            ("history", vector),
            ("ranker", ranker),
            ("features", self._features),
        ):
            start, stop = self._columns[name]
            row[start:stop] = part
        filtered = np.concatenate([vector, self._features])
        self._tables["filter_items"][place] = self._rounded(filtered)
        parts = [vector[None]] if self._axes is None else [vector[None], (content @ self._axes)[None]]
        self._tables["diversity_items"][place] = joined(parts)[0]
        if self._group_by:
            value = attributes.get(self._group_by)
            numbers = self._group_numbers
            self._groups[place] = -1 if value is None else numbers.setdefault(value, len(numbers))

    def _rounded(self, row: Float32) -> NDArray[Any]:
        """A row of the filter's table, in its type."""
        if self._scale is None:
            most = np.finfo(np.float16).max
            return np.asarray(np.clip(row, -most, most))
        return np.asarray(np.clip(np.rint(row / self._scale), -INT8, INT8))


class DeviceRows:
    """The same rows of the tables that a device holds, which are copied there once somebody may ask for them."""

    def __init__(self, bundle: RoomyBundle, catalog: Catalog, device: Device, tables: Mapping[str, Any]) -> None:
        """`tables` are what `device` keeps of the bundle's beside the catalogue, by name; None is none."""
        assert isinstance(catalog.ids, GrowingIds)
        self._bundle, self._ids, self._device = bundle, catalog.ids, device
        self._tables = {name: t for name, t in {**tables, "table": catalog.table}.items() if t is not None}
        self._end = bundle.first  # of what is there

    def follow(self) -> None:
        """Copy what was taken since the last call. For the thread that answers, between two batches."""
        end = self._bundle.first + len(self._ids.new_ids)  # rows are taken in order, and filled before they have an id
        if end > self._end:
            for name, kept in self._tables.items():
                self._device.renew(kept, self._bundle.array(name), slice(self._end, end))
            self._end = end


def check(encoder: FeatureEncoder, group_by: str | None, attributes: Mapping[str, Any]) -> None:
    """Raise RequestError for the first attribute that `encoder` does not know, or has a value that cannot be."""
    known = {column.name: column for column in encoder.encoders}
    for name, value in attributes.items():
        if name in known:
            allowed = None if value is None else _allowed(known[name], value)
        elif name == group_by:
            allowed = None if _is_scalar(value) else "a string, a number, true or false"
        else:
            allowed = f"only the attributes {', '.join(known)}"
        if allowed:
            raise refuse(f"item.{name}", value, allowed)


def require_maps(bundle: Any) -> None:
    """Raise BundleError when a bundle does not say how to make vectors of attributes."""
    if bundle.has(f"{FEATURES}.npy"):
        return
    kinds = bundle.document("features")["item"]
    why = "is older than new items are; train again" if kinds else "knows no item attributes; train with some"
    raise BundleError(f"{bundle.path}: cannot take new items: it {why}")


def _allowed(encoder: Encoder, value: Any) -> str | None:
    """What an attribute may be, where `value` is not; the texts of items may be long."""
    if isinstance(encoder, Text):
        return None if isinstance(value, str) else "a string"
    if isinstance(value, bool) and encoder.kind in ("category", "identifier"):
        return None
    return encoder.check(value)


def _spelt(value: Any) -> Any:
    """A value as the data spell it."""
    return str(value).lower() if isinstance(value, bool) else value


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | bool) or (isinstance(value, int | float) and abs(value) < LARGEST)
