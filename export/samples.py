"""What a bundle's graphs are given for real requests: stored users, through the stages that serve.

From these come the ranges of graphs that the CPU runs in FP32, and the requests that variants are judged on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.bundle import Bundle
from shortlist.catalog import Catalog
from shortlist.config import CascadeConfig
from shortlist.errors import BundleError
from shortlist.export.qdq import measured_ranges
from shortlist.export.tensorrt import Profile, bucket_profiles
from shortlist.export.twin import calibrated_ranges, feature_step, float_twin
from shortlist.export.variants import PRECISIONS
from shortlist.kernels.fuse_features import fuse_features
from shortlist.kernels.fuse_features.columns import retyped
from shortlist.stages.filter import Filter
from shortlist.stages.popularity import Popularity
from shortlist.stages.retrieve import Retrieve
from shortlist.stages.users import Users
from shortlist.types import MAX_K, Bool, Candidates, Float32, Request, UserBatch

CALIBRATING = 0.25  # share of the requests that ranges are measured on; the rest judges
Inputs = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Subject:
    """A model that variants are made of, and what they are made and judged with."""

    model: str
    graph: bytes  # FP32
    ranges: Mapping[str, float]  # largest magnitude of the products' inputs
    profiles: Sequence[Profile]
    inputs: Inputs  # of the FP32 graph, for B · N candidates
    real: Bool  # [B, N], False at padding
    tops: tuple[int, ...] = (10,)  # depths at which choices are compared
    precisions: tuple[str, ...] = PRECISIONS
    items: Float32 | None = None  # [N, D] whose inner products with the graph's output are the scores


def bundle_subjects(bundle: Bundle, count: int = 200, exact_filter: bytes | None = None) -> list[Subject]:
    """The user tower, the filter and the ranker of `bundle`, with the inputs of about `count` of its users' requests.

    The filter's FP32 graph has the weights that the CPU's INT8 graph rounds to, unless `exact_filter` is given: the
    graph that was quantized (`shortlist.export.onnx.export_student`).

    Raises BundleError when no stored user has a history.
    """
    catalog, config = Catalog.load(bundle), CascadeConfig.model_validate(bundle.metadata["cascade"])
    users, candidates = _retrieved(bundle, catalog, config, count)
    filtering = Filter(bundle, catalog)
    kept = filtering(users, candidates, config.rank_depth)
    buckets = graph_buckets(config)
    return [
        _user_subject(bundle, catalog, users, buckets["user"]),
        _filter_subject(bundle, filtering, users, candidates, buckets["filter"], config.rank_depth, exact_filter),
        _ranker_subject(bundle, catalog, users, kept, buckets["ranker"]),
    ]


def graph_buckets(config: CascadeConfig, *, exact: bool = True) -> dict[str, list[Profile]]:
    """The profiles of each graph's plan, for as many candidates as requests of the usual and of the largest k have."""
    depths = sorted({config.rank_depth, max(config.rank_depth, 2 * MAX_K)})
    widths = sorted({max(config.candidates, depth) for depth in depths})
    return {
        "user": bucket_profiles([1], config.history, exact=exact),
        "filter": bucket_profiles(widths, exact=exact),
        "ranker": bucket_profiles(depths, config.history, exact=exact),
    }


def _retrieved(bundle: Bundle, catalog: Catalog, config: CascadeConfig, count: int) -> tuple[UserBatch, Candidates]:
    """Users with a history, spread evenly over those stored, and what retrieval finds for them."""
    looking_up = Users(bundle, catalog, Popularity(bundle), config.history)
    stored = looking_up.profiles
    known = np.flatnonzero(np.diff(stored.offsets))
    if not len(known):
        raise BundleError(f"{bundle.path}: no stored user has a history; nothing else calibrates and judges variants")
    chosen = known[np.unique(np.linspace(0, len(known) - 1, count).astype(np.int64))]
    users = looking_up.read([Request(user_id=stored.ids.id(int(row))) for row in chosen])
    return users, Retrieve(bundle, catalog)(users, config.candidates)


def _user_subject(bundle: Bundle, catalog: Catalog, users: UserBatch, profiles: list[Profile]) -> Subject:
    inputs: Inputs = {"history": catalog.gather(users.history, "history"), "lengths": users.lengths, "side": users.side}
    items = catalog.part("retrieval")
    real = np.ones((len(users), len(items)), np.bool_)
    graph = bundle.graph("user").read_bytes()
    return Subject("user", graph, {}, profiles, inputs, real, precisions=("fp32", "fp16", "bf16"), items=items)


def _filter_subject(
    bundle: Bundle,
    filtering: Filter,
    users: UserBatch,
    candidates: Candidates,
    profiles: list[Profile],
    depth: int,
    exact: bytes | None,
) -> Subject:
    quantized = bundle.graph("filter").read_bytes()
    columns = retyped(filtering.columns, "float32", feature_step(quantized))
    features, linear = fuse_features(
        filtering.items, candidates.rows, users.vectors, candidates.channels, users.side, columns
    )
    inputs = {"features": features.reshape(-1, features.shape[2]), "linear": linear.ravel()}
    graph, ranges = exact or float_twin(quantized), calibrated_ranges(quantized)
    return Subject("filter", graph, ranges, profiles, inputs, candidates.rows >= 0, (10, depth))


def _ranker_subject(
    bundle: Bundle, catalog: Catalog, users: UserBatch, candidates: Candidates, profiles: list[Profile]
) -> Subject:
    features = [catalog.gather(candidates.rows, "features"), candidates.channels]
    inputs: Inputs = {
        "history": catalog.gather(users.history, "ranker"),
        "lengths": users.lengths,
        "candidates": catalog.gather(candidates.rows, "ranker"),
        "features": np.concatenate(features, axis=2),
        "side": users.side,
    }
    graph, cut = bundle.graph("ranker").read_bytes(), max(1, round(CALIBRATING * len(users)))
    ranges = measured_ranges(graph, {name: values[:cut] for name, values in inputs.items()})
    judging = slice(cut if len(users) > 1 else 0, None)
    judged = {name: values[judging] for name, values in inputs.items()}
    return Subject("ranker", graph, ranges, profiles, judged, candidates.rows[judging] >= 0)
