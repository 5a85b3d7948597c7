"""What stands around the plans of a GPU repository's ensemble: ids to numbers, scores to choices. Run by Python stubs.

These models work on the CPU, so that a GPU holds the catalogue for the instances of `cascade` alone, which is the fast
one. Like `stage_models` they have no cold-start path, no deadlines and no exploration, and compute the user side anew.
Candidates and histories are padded to the sizes that the plans were built for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from shortlist.errors import RequestError
from shortlist.export.twin import feature_step
from shortlist.kernels.fuse_features import fuse_features
from shortlist.kernels.fuse_features.columns import retyped
from shortlist.serving.gpu_models import (
    FILTER,
    FILTER_SCORE,
    FOUND_CHANNELS,
    FOUND_ROWS,
    RANKER,
    RANKER_SCORE,
    plan_model,
)
from shortlist.serving.model import parameters_of, tensor_of
from shortlist.serving.model_config import ENGINES
from shortlist.serving.parse import parse_parameters
from shortlist.serving.stage_models import StageModel, slates_of
from shortlist.serving.tensors import CASCADE
from shortlist.stages.best import keep_best
from shortlist.types import MAX_K, Candidates, Float32, Int32, Request

_TYPES = {"FP16": np.float16, "FP32": np.float32, "INT8": np.int8, "UINT8": np.uint8, "INT64": np.int64}


class GpuStageModel(StageModel):
    """A step of the ensemble: it knows the types that the plan `plan` takes."""

    plan: str

    def initialize(self, args: dict[str, str]) -> None:
        """Open the bundle of the `cascade` model, and the graph of the plan."""
        version = Path(args["model_repository"]).parent / CASCADE.name / args["model_version"]
        spec = plan_model(self.plan, (version / ENGINES / f"{self.plan}.onnx").read_bytes())
        self.types = {tensor.name: np.dtype(_TYPES[tensor.dtype]) for tensor in spec.inputs}
        self.graph = version / "bundle" / f"{self.plan}.onnx"
        super().initialize(args)

    def numbers(self, inputs: dict[str, Any]) -> list[Any]:
        """The plan's inputs as output tensors of this step, in its types."""
        return [
            pb_utils.Tensor(name, np.ascontiguousarray(inputs[name].astype(dtype, copy=False)))
            for name, dtype in self.types.items()
        ]


class BeforeFilterModel(GpuStageModel):
    """user_id, history, exclude → candidates, and what the filter is told of them."""

    plan = FILTER

    def warm_up(self) -> None:
        """The same, with the columns of the filter's input in the plan's type."""
        stage, dtype = self.cascade.filter, self.types["features"].name
        same = stage.columns.dtype == dtype
        self.columns = stage.columns if same else retyped(stage.columns, dtype, feature_step(self.graph.read_bytes()))
        super().warm_up()

    def read(self, request: Any) -> Request:
        """The person."""
        return self.person(request)

    def samples(self) -> list[Any]:
        """People."""
        return self.people()

    def answer(self, batch: list[Request]) -> list[list[Any]]:
        """For each person rows, channels, and the plan's inputs for them."""
        return [self._features(person) for person in batch]

    def _features(self, person: Request) -> list[Any]:
        users = self.cascade.users.read([person])
        found = self.cascade.retrieve(users, max(self.cascade.config.candidates, self.depth([person])))
        features, linear = fuse_features(
            self.cascade.filter.items, found.rows, users.vectors, found.channels, users.side, self.columns
        )
        return [
            pb_utils.Tensor(FOUND_ROWS.name, found.rows),
            pb_utils.Tensor(FOUND_CHANNELS.name, found.channels),
            *self.numbers({"features": features[0], "linear": linear[0]}),
        ]


class BeforeRankerModel(GpuStageModel):
    """The person, the candidates and the filter's scores → the best of them, and what the ranker is told of them."""

    plan = RANKER

    def read(self, request: Any) -> tuple[Request, Candidates]:
        """The person, and the candidates with the filter's scores."""
        rows, channels = tensor_of(request, FOUND_ROWS), tensor_of(request, FOUND_CHANNELS)
        scores = tensor_of(request, FILTER_SCORE)[None]
        if scores.shape != rows.shape or channels.shape != (*rows.shape, 2):
            shapes = f"{list(rows.shape)}, {list(channels.shape)}, {list(scores[0].shape)}"
            raise RequestError(f"rows, channels, filter_score = shapes {shapes}: [1, N], [1, N, 2], [N] are allowed")
        check_rows(rows, len(self.cascade.catalog))
        return self.person(request), Candidates(rows, scores, channels)

    def samples(self) -> list[Any]:
        """People, each with candidates."""
        return [(person, self.candidates()) for person in self.people()]

    def answer(self, batch: list[tuple[Request, Candidates]]) -> list[list[Any]]:
        """For each person the rows that go on, -1 as padding, and the plan's inputs for them."""
        return [self._inputs(person, candidates) for person, candidates in batch]

    def _inputs(self, person: Request, candidates: Candidates) -> list[Any]:
        config, catalog, users = self.cascade.config, self.cascade.catalog, self.cascade.users.look_up([person])
        scores = np.where(candidates.rows >= 0, candidates.scores, np.float32(-np.inf))
        kept = keep_best(candidates, scores, self.depth([person]))
        width = config.rank_depth if kept.rows.shape[1] <= config.rank_depth else max(config.rank_depth, 2 * MAX_K)
        rows, channels = padded(kept.rows, width, -1), padded(kept.channels, width, 0)
        history = padded(users.history, config.history, -1)
        inputs = {
            "history": catalog.gather(history, "ranker"),
            "lengths": users.lengths,
            "candidates": catalog.gather(rows, "ranker"),
            "features": np.concatenate([catalog.gather(rows, "features"), channels], axis=2),
            "side": users.side,
        }
        return [pb_utils.Tensor(FOUND_ROWS.name, rows), *self.numbers(inputs)]


class AfterRankerModel(StageModel):
    """Candidates and the ranker's scores → the slate."""

    def read(self, request: Any) -> tuple[dict[str, Any], Int32, Float32]:
        """k and diversity, rows and scores."""
        rows, scores = tensor_of(request, FOUND_ROWS), tensor_of(request, RANKER_SCORE)
        if rows.shape != scores.shape:
            shapes = f"{list(rows.shape)}, {list(scores.shape)}"
            raise RequestError(f"rows, ranker_score = shapes {shapes}: [1, N], [1, N] are allowed")
        check_rows(rows, len(self.cascade.catalog))
        return parse_parameters(parameters_of(request)), rows, scores

    def samples(self) -> list[Any]:
        """As many candidates as the ranker scores."""
        sample = self.candidates().head(self.cascade.config.rank_depth)
        return [({}, sample.rows, sample.scores)]

    def answer(self, batch: list[tuple[dict[str, Any], Int32, Float32]]) -> list[list[Any]]:
        """Item ids and scores, in slate order."""
        return [self._slate(*member) for member in batch]

    def _slate(self, options: dict[str, Any], rows: Int32, scores: Float32) -> list[Any]:
        ranked = Candidates(
            rows, np.where(rows >= 0, scores, np.float32(-np.inf)), np.zeros((*rows.shape, 2), np.float32)
        )
        return slates_of(self.cascade, [options], keep_best(ranked, ranked.scores, rows.shape[1]))[0]


def check_rows(rows: Int32, catalogue: int) -> None:
    """Raise RequestError for rows that the catalogue has not; -1 is padding."""
    if rows.size and not (rows.min() >= -1 and rows.max() < catalogue):
        raise RequestError(f"rows = {rows.min()} to {rows.max()}: -1 to {catalogue - 1} is allowed")


def padded(values: Any, width: int, filler: int) -> Any:
    """`values` [1, N, ...] continued with `filler` to [1, width, ...]."""
    missing = width - values.shape[1]
    return np.pad(values, [(0, 0), (0, missing), *[(0, 0)] * (values.ndim - 2)], constant_values=filler)
