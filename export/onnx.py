"""Torch modules to the ONNX graphs that serving runs: user tower, filter and ranker.

Graphs take gathered vectors and never hold an item table; every batch, history and candidate axis is dynamic. The
graphs are returned as bytes, checked by `onnx.checker`; whether they compute the same is `shortlist.export.parity`'s
question.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Sequence

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from shortlist.models.ranker import Ranker
from shortlist.models.student import Student

OPSET = 18
BATCH, HISTORY, CANDIDATES, PAIRS = "batch", "history", "candidates", "pairs"
_EXAMPLE = {BATCH: 3, HISTORY: 7, CANDIDATES: 5, PAIRS: 6}  # sizes traced; unlike each other, so that none is fused


class CalibratedRanker(nn.Module):
    """The ranker as it is served: probabilities instead of logits."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__()
        self.ranker = ranker

    def forward(self, history: Tensor, lengths: Tensor, candidates: Tensor, features: Tensor, side: Tensor) -> Tensor:
        """Calibrated probability [B, N]; shapes as in `Ranker.forward`."""
        return self.ranker.probability(self.ranker(history, lengths, candidates, features, side))


class StudentHead(nn.Module):
    """The student as it is served: what `fuse_features` leaves to be computed."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, features: Tensor, linear: Tensor) -> Tensor:
        """Scores [M]; shapes as in `Student.head`."""
        return self.student.head(features, linear)


def export_user(module: nn.Module, history_width: int, side_width: int) -> bytes:
    """Graph history f32[B, L, Dh], lengths i64[B], side f32[B, S] -> user f32[B, D]."""
    axes: dict[str, Sequence[str | int]] = {
        "history": (BATCH, HISTORY, history_width),
        "lengths": (BATCH,),
        "side": (BATCH, side_width),
    }
    return export_graph(module, axes, "user")


def export_ranker(ranker: Ranker) -> bytes:
    """Graph history, lengths, candidates, features, side -> score f32[B, N], as the ranker takes them, calibrated."""
    dim, width = ranker.settings["dim"], ranker.settings["feature_width"]
    axes: dict[str, Sequence[str | int]] = {
        "history": (BATCH, HISTORY, dim),
        "lengths": (BATCH,),
        "candidates": (BATCH, CANDIDATES, dim),
        "features": (BATCH, CANDIDATES, width),
        "side": (BATCH, ranker.settings["side_width"]),
    }
    return export_graph(CalibratedRanker(ranker), axes, "score")


def export_student(student: Student) -> bytes:
    """Graph features f32[M, G], linear f32[M] -> score f32[M]: `Student.head`, features scaled and clipped already."""
    axes: dict[str, Sequence[str | int]] = {"features": (PAIRS, student.settings["width"]), "linear": (PAIRS,)}
    return export_graph(StudentHead(student), axes, "score")


def export_graph(module: nn.Module, axes: dict[str, Sequence[str | int]], output: str) -> bytes:
    """Export `module`; `axes` gives each input's shape, dynamic axes by name. Inputs called lengths are int64."""
    module = copy.deepcopy(module).cpu().eval()
    inputs = tuple(_example(name, shape) for name, shape in axes.items())
    dims = {name: Dim(name, min=1) for shape in axes.values() for name in shape if isinstance(name, str)}
    shapes = tuple({i: dims[a] for i, a in enumerate(shape) if isinstance(a, str)} for shape in axes.values())
    with _quiet():
        program = torch.onnx.export(
            module,
            inputs,
            input_names=list(axes),
            output_names=[output],
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            optimize=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    for node in graph.graph.node:
        del node.metadata_props[:]  # stack traces of the exporter: they name files of the machine that exported
    del graph.graph.value_info[:]  # inner shapes: every consumer infers them, and quantizers trip over stale ones
    onnx.checker.check_model(graph, full_check=True)
    content: bytes = graph.SerializeToString()
    return content


def _example(name: str, shape: Sequence[str | int]) -> Tensor:
    sizes = [_EXAMPLE[axis] if isinstance(axis, str) else axis for axis in shape]
    if name == "lengths":
        return torch.arange(sizes[0], dtype=torch.int64) + 1
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(0))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the exporter says of itself: progress on stdout, its own deprecations, missing torchvision."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", message="# The axis name")  # one axis named alike in several inputs
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
