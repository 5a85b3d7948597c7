"""A bundle of millions of items made from a small trained one, for benchmarks only: it ranks, but it knows nobody.

Every new item is a perturbed copy of a trained one and every new person goes by the history of a trained one, so that
clusters, popularity and histories are shaped like life. Graphs, encoders and constants stay the trained ones, and so
does the width of the vectors. Arrays are written in chunks into memory-mapped files.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.bundle import Bundle, bundle_folder
from shortlist.catalog import IdMap
from shortlist.data.encoders import FeatureEncoders
from shortlist.data.log import place_in
from shortlist.errors import ConfigError
from shortlist.serving.benchmark.people import Histories, draw_histories
from shortlist.types import Float32, Int32, Int64

SPREAD = 0.5  # of a copy around its original, in standard deviations of the trained vectors
NEIGHBOURS = 50  # an item keeps of each item-item channel
CREATIONS = 20  # copies of an item that share its group
LISTED = 2000  # items of a popularity list
QUERIES = 500  # people whose vectors tune the index
CHUNK = 1 << 18  # items in memory at a time
VECTORS = ("table", "filter_items", "diversity_items")  # arrays with a row for each item
KEPT = ("filter_columns.npy", "profile_unknown.npy", "features.json", "filter.json", "layout.json", "popularity.json",
        "scales.json", "user.onnx", "filter.onnx", "ranker.onnx")  # fmt: skip


@dataclass(frozen=True)
class Copies:
    """Which trained item each new one is a copy of, and the copies of each, the popular ones first."""

    origins: Int32  # [N]
    members: Int32  # [N] new rows by original
    starts: Int64  # [n + 1] where each original's begin

    @classmethod
    def draw(cls, trained: int, items: int, rng: np.random.Generator) -> Copies:
        """`items` copies of `trained` items: some have many, each has one."""
        weights = rng.lognormal(0, 1, trained)
        more = rng.choice(trained, items - trained, p=weights / weights.sum())
        origins = rng.permutation(np.concatenate([np.arange(trained), more]).astype(np.int32))
        starts = np.concatenate([[0], np.cumsum(np.bincount(origins, minlength=trained))])
        return cls(origins, np.argsort(origins, kind="stable").astype(np.int32), starts)

    def reordered(self, order: Int64) -> Copies:
        """The same copies, of which row i is what was row `order[i]`, [N]."""
        return Copies(self.origins[order], place_in(order)[self.members], self.starts)

    def popular(self, origins: Int32, rng: np.random.Generator) -> Int32:
        """A copy of each of `origins`, drawn by popularity: of m copies the j-th as likely as about 1 / j (Zipf)."""
        counts = self.starts[origins + 1] - self.starts[origins]
        place = np.minimum(np.exp(rng.random(origins.shape) * np.log1p(counts)).astype(np.int64) - 1, counts - 1)
        rows: Int32 = self.members[self.starts[origins] + place]
        return rows

    def chunks(self) -> Iterator[slice]:
        """Consecutive ranges of new rows, all of them."""
        return (slice(start, min(start + CHUNK, len(self.origins))) for start in range(0, len(self.origins), CHUNK))


def grow(bundle_path: Path, out: Path, items: int, users: int, seed: int = 0) -> Path:
    """Write a bundle of `items` items and `users` people at `out`, made from the trained bundle at `bundle_path`.

    Raises BundleError for a damaged bundle, ConfigError for fewer items than it has, or a bundle without histories.
    """
    from shortlist.training.index import build_index

    source = Bundle.open(bundle_path)
    trained = len(source.array("table"))
    if items < trained:
        raise ConfigError(f"--items = {items}: at least {trained} are allowed, as many as {bundle_path} has")
    rng = np.random.default_rng(seed)
    copies = Copies.draw(trained, items, rng)
    metadata = source.metadata | {
        "cascade": source.metadata["cascade"] | {"eligibility": []},  # attributes for predicates are not copied
        "name": f"{source.metadata.get('name', 'bundle')}-grown-{items}",
        "benchmark_only": f"grown from bundle {source.version} to {items} items and {users} users with seed {seed}",
    }
    with bundle_folder(out, metadata) as folder:
        for name in KEPT:
            shutil.copyfile(source.file(name), folder / name)
        table = _write_vectors(source, folder, copies, rng)
        histories = _draw_people(source, copies, users, rng)
        start, stop = source.document("layout")["retrieval"]
        depth = source.metadata["cascade"]["candidates"]
        queries = _user_vectors(source, table, histories, rng)
        index = build_index(table[:, start:stop], depth, seed, queries)
        _reorder_vectors(folder, index.order)
        copies, histories = copies.reordered(index.order), histories.reordered(index.order)
        _write_item_ids(source, folder, copies)
        _write_groups(source, folder, copies)
        for channel in range(len(source.document("retrieve")["linear_decays"])):
            _write_channel(source, folder, f"linear{channel}", copies, rng)
        _write_people(source, folder, histories)
        _write_popularity(source, folder, np.bincount(histories.rows, minlength=items), rng)
        index.write(folder / "index.faiss")
        for name, array in index.arrays.items():
            np.save(folder / f"{name}.npy", array)
        settings = source.document("retrieve") | index.settings
        (folder / "retrieve.json").write_text(json.dumps(settings), encoding="utf-8")
    return out


def _write_item_ids(source: Bundle, folder: Path, copies: Copies) -> None:
    """Ids, and the attributes of the originals."""
    ids = _write_ids(folder, "item", len(copies.origins), ("", "sku-", "catalogue/item/"))
    if source.has("items.parquet"):
        attributes = pl.read_parquet(source.file("items.parquet"))
        attributes[copies.origins].with_columns(ids.alias("item_id")).write_parquet(folder / "items.parquet")


def _write_ids(folder: Path, prefix: str, count: int, beginnings: tuple[str, ...]) -> pl.Series:
    """`count` different ids of several lengths, and their map."""
    number = pl.int_range(count)
    beginning = number.map_batches(lambda n: pl.Series(beginnings)[(n % len(beginnings)).to_numpy()], pl.String)
    ids = pl.select(pl.concat_str([beginning, number.cast(pl.String)])).to_series()
    blob = np.frombuffer("".join(ids).encode(), np.uint8)
    offsets = np.concatenate([[0], np.cumsum(ids.str.len_bytes().to_numpy(), dtype=np.int64)])
    for name, array in IdMap.index(blob, offsets).arrays(prefix).items():
        np.save(folder / f"{name}.npy", array)
    return ids


def _write_groups(source: Bundle, folder: Path, copies: Copies) -> None:
    """Groups that own about as many items as in the source: every few copies of an item begin a new one."""
    if not source.has("item_groups.npy"):
        return
    groups = source.array("item_groups")
    place = np.empty(len(copies.origins), np.int32)
    place[copies.members] = np.arange(len(place)) - np.repeat(copies.starts[:-1], np.diff(copies.starts))
    grown = groups[copies.origins]
    grown = np.where(grown < 0, grown, grown + (groups.max() + 1) * (place // CREATIONS)).astype(groups.dtype)
    np.save(folder / "item_groups.npy", grown)


def _write_vectors(source: Bundle, folder: Path, copies: Copies, rng: np.random.Generator) -> Float32:
    """Table, filter's and diversifier's rows of the copies. Returns the table, memory-mapped."""
    trained = {name: source.array(name) for name in VECTORS}
    grown = {
        name: _new_array(folder, name, (len(copies.origins), *a.shape[1:]), a.dtype) for name, a in trained.items()
    }
    layout = source.document("layout")
    moved = {tuple(layout[name]) for name in ("retrieval", "history", "ranker")}
    noises = {columns: _noise(trained["table"][:, slice(*columns)]) for columns in sorted(moved)}
    start, stop = layout["retrieval"]
    width = stop - start
    step = np.abs(trained["table"][:, start:stop]).max(axis=0) / 127  # of an int8 filter table
    for chunk in copies.chunks():
        origins = copies.origins[chunk]
        rows = {name: array[origins] for name, array in trained.items()}
        for columns, noise in noises.items():
            part = rows["table"][:, slice(*columns)]
            part += SPREAD * (rng.standard_normal(part.shape, np.float32) @ noise.factor)
            part -= (1 - np.sqrt(1 - SPREAD**2)) * (trained["table"][origins, slice(*columns)] - noise.mean)
        vectors = rows["table"][:, start:stop]
        whole = rows["filter_items"].dtype == np.int8
        rows["filter_items"][:, :width] = np.clip(np.rint(vectors / step), -127, 127) if whole else vectors
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        shares = np.linalg.norm(rows["diversity_items"][:, :width].astype(np.float32), axis=1, keepdims=True)
        rows["diversity_items"][:, :width] = vectors * (shares / np.maximum(norms, 1e-12))
        for name, array in rows.items():
            grown[name][chunk] = array
    return grown["table"]


def _reorder_vectors(folder: Path, order: Int64) -> None:
    """Put the same rows into the order of the index: row i is what was row `order[i]`."""
    for name in VECTORS:
        drawn = np.load(folder / f"{name}.npy", mmap_mode="r")
        (folder / f"{name}.npy").unlink()  # what is mapped stays until nobody reads it
        ordered = _new_array(folder, name, drawn.shape, drawn.dtype)
        for start in range(0, len(order), CHUNK):
            ordered[start : start + CHUNK] = drawn[order[start : start + CHUNK]]


@dataclass(frozen=True)
class _Noise:
    """How trained columns are spread. A copy of x is mean + √(1 - s²) (x - mean) + s · normal @ factor, s = SPREAD.

    So mean and covariance stay those of the trained columns.
    """

    mean: Float32  # [W]
    factor: Float32  # [W, W]


def _noise(part: Float32) -> _Noise:
    values, vectors = np.linalg.eigh(np.cov(part, rowvar=False).reshape(part.shape[1], -1))
    factor = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    return _Noise(part.mean(axis=0), factor.astype(np.float32))


def _write_channel(source: Bundle, folder: Path, name: str, copies: Copies, rng: np.random.Generator) -> None:
    """An item-item channel: each copy has its original's strongest neighbours, each as one of its copies."""
    near, weights, counts = _strongest(*(source.array(f"{name}_{part}") for part in ("indptr", "indices", "values")))
    indptr = np.concatenate([[0], np.cumsum(counts[copies.origins], dtype=np.int64)])
    np.save(folder / f"{name}_indptr.npy", indptr)
    indices = _new_array(folder, f"{name}_indices", (indptr[-1],), np.int32)
    values = _new_array(folder, f"{name}_values", (indptr[-1],), np.float32)
    for chunk in copies.chunks():
        origins = copies.origins[chunk]
        real = np.arange(near.shape[1]) < counts[origins, None]
        rows = np.where(real, copies.popular(near[origins], rng), np.iinfo(np.int32).max)
        order = np.sort(rows.astype(np.int64) << 8 | np.arange(rows.shape[1]), axis=1)  # by row, as trained ones are
        part = slice(indptr[chunk.start], indptr[chunk.stop])
        indices[part] = (order >> 8)[real]
        values[part] = np.take_along_axis(weights[origins], order & 255, axis=1)[real]


def _strongest(indptr: Int64, indices: Int32, values: Float32) -> tuple[Int32, Float32, Int64]:
    """The NEIGHBOURS largest weights of each row: rows and weights [n, K], zeros past the count [n]."""
    counts = np.diff(indptr)
    row = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((-np.abs(values), row))
    place = np.arange(len(row)) - np.repeat(indptr[:-1], counts)
    kept = place < NEIGHBOURS
    near, weights = np.zeros((len(counts), NEIGHBOURS), np.int32), np.zeros((len(counts), NEIGHBOURS), np.float32)
    near[row[kept], place[kept]] = indices[order][kept]
    weights[row[kept], place[kept]] = values[order][kept]
    return near, weights, np.minimum(counts, NEIGHBOURS)


def _draw_people(source: Bundle, copies: Copies, users: int, rng: np.random.Generator) -> Histories:
    offsets, rows = source.array("profile_offsets"), source.array("profile_rows")
    if not len(rows):
        raise ConfigError(f"BUNDLE = {source.path}: has no histories to model people on; train one on a log of events")
    return draw_histories(offsets, rows, users, copies.popular, len(copies.origins), rng)


def _write_people(source: Bundle, folder: Path, histories: Histories) -> None:
    _write_ids(folder, "user", len(histories.models), ("user-", "u", "member/of/the/catalogue/"))
    np.save(folder / "profile_offsets.npy", histories.offsets)
    np.save(folder / "profile_rows.npy", histories.rows)
    features = source.array("profile_features")
    np.save(folder / "profile_features.npy", features[histories.models] if len(features) else features)


def _write_popularity(source: Bundle, folder: Path, counts: Int64, rng: np.random.Generator) -> None:
    """Lists by the events of everyone; those of a segment differ by chance."""
    segments = len(source.array("popularity_rows"))
    listed = min(LISTED, len(counts))
    pool = np.argsort(-counts, kind="stable")[: 4 * listed]
    shares = np.repeat((counts[pool] + 1.0)[None] / (counts.sum() + len(counts)), segments, axis=0)
    shares[1:] *= rng.lognormal(0, 0.3, shares[1:].shape)
    best = np.argsort(-shares, axis=1, kind="stable")[:, :listed]
    np.save(folder / "popularity_rows.npy", pool[best].astype(np.int32))
    np.save(folder / "popularity_shares.npy", np.take_along_axis(shares, best, axis=1).astype(np.float32))


def _user_vectors(source: Bundle, table: Float32, histories: Histories, rng: np.random.Generator) -> Float32:
    """Retrieval vectors [Q, D] of some people who have a history: what the index will be asked."""
    from shortlist.devices.cpu import Cpu

    tower = Cpu().scorer(source, "user")
    start, stop = source.document("layout")["history"]
    features, length = source.array("profile_features"), source.metadata["cascade"]["history"]
    context = FeatureEncoders.from_document(source.document("features")).context_row({})
    people = np.flatnonzero(np.diff(histories.offsets))
    vectors = []
    for user in rng.choice(people, min(QUERIES, len(people)), replace=False):
        history = histories.rows[histories.offsets[user] : histories.offsets[user + 1]][-length:]
        known = features[histories.models[user]] if len(features) else source.array("profile_unknown")
        side = np.concatenate([known, context])[None].astype(np.float32)
        inputs = {"history": table[history, start:stop][None], "lengths": np.array([len(history)]), "side": side}
        vectors.append(tower(inputs)[0])
    return np.stack(vectors)


def _new_array(folder: Path, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    array: NDArray[Any] = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
        folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape
    )
    return array
