"""Variants of a run's filter to compare with the one that it ships: pruned, in other numbers, linear, or none at all.

All are the run's own student, distilled further where it was cut, on the requests that taught it. What they cost and
keep is measured by `shortlist.evaluation.students`.
"""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

from shortlist.config import Config
from shortlist.devices.cpu import open_session
from shortlist.export.emulate import emulated
from shortlist.export.onnx import export_student
from shortlist.export.twin import calibrated_ranges
from shortlist.export.variants import make_variant
from shortlist.kernels.fuse_features import fuse_features
from shortlist.models.ranker import Ranker
from shortlist.models.retriever import Retriever
from shortlist.models.student import Student, pruned
from shortlist.training.filter import FilterInput, filter_input
from shortlist.training.graphs import export_filter
from shortlist.training.run import load_config, load_split, order_in_bundle
from shortlist.training.stages import distillation, served_candidates
from shortlist.training.student import FITTED_REQUESTS, Distillation, fine_tune, train_student
from shortlist.types import Candidates, Float32, Int64, UserBatch

SHIPPED = "distilled, INT8"
SHARES = {"half": 2, "a quarter": 4}  # of the hidden units that pruning leaves, as divisors
COMPARED = 200  # requests that show whether an exported graph is right


@dataclass(frozen=True, eq=False)
class Variant:
    """A filter: kernel and graph, the kernel's linear part alone, or nothing but the order of retrieval."""

    name: str
    precision: str = "–"
    hidden: tuple[int, ...] = ()
    parameters: int = 0
    graph: bytes = b""  # as the machine that it is for gets it
    given: FilterInput | None = None  # what the kernel makes the graph's input from
    session: ort.InferenceSession | None = None
    emulated: bool = False  # the session runs a stand-in, whose time says nothing

    def reordered(self, order: Int64) -> Variant:
        """The same for items in another order: row i is what was row `order[i]`, [N]."""
        return self if self.given is None else replace(self, given=replace(self.given, items=self.given.items[order]))

    def score(self, users: UserBatch, candidates: Candidates) -> Float32:
        """Scores [B, N] of the candidates, as the stage `filter` computes them; -inf at padding."""
        rows = candidates.rows
        if self.given is None:
            return np.where(rows >= 0, -np.arange(rows.shape[1], dtype=np.float32), np.float32(-np.inf))
        features, linear = fuse_features(
            self.given.items, rows, users.vectors, candidates.channels, users.side, self.given.columns
        )
        if self.session is None:
            found: Float32 = linear
            return found
        inputs = {"features": features.reshape(-1, features.shape[2]), "linear": linear.reshape(-1)}
        scores: Float32 = self.session.run(None, inputs)[0]
        return scores.reshape(rows.shape)


def make_variants(run: Path, *, show_progress: bool = False) -> list[Variant]:
    """Every variant of the student of `run`; what is cut is distilled again, for as many passes as the student had.

    Two controls tell pruning from the second distillation that follows it: the whole student taught as long as the cut
    ones, and one that had few units from the start, as long too. Takes as long as six trainings of a student.
    """
    teaching = Teaching(load_config(run), taught_requests(run), show_progress)
    student, order = Student.load(run / "models"), order_in_bundle(run)
    variants = [
        Variant("retrieval order"),
        teaching.linear(student),
        *teaching.graphs("distilled", student, fp8=True),
        *(
            variant
            for share, divisor in SHARES.items()
            for variant in teaching.graphs(f"pruned to {share}", teaching.pruned(student, divisor))
        ),
        *teaching.graphs("distilled twice as long", teaching.tuned(copy.deepcopy(student)))[1:],
        *teaching.graphs("a quarter from the start", teaching.small(student, max(SHARES.values())))[1:],
    ]
    return [variant.reordered(order) for variant in variants]


def taught_requests(run: Path) -> Distillation:
    """The requests on which the student of `run` was distilled, with the scores of its ranker."""
    config, (split, features) = load_config(run), load_split(run)
    retriever, ranker = Retriever.load(run / "models"), Ranker.load(run / "models")
    validation = served_candidates(config, split.validation, retriever, retriever, features)
    return distillation(config, split, features, retriever, retriever, ranker, validation)


@dataclass(frozen=True, eq=False)
class Teaching:
    """Makes variants by the settings of a run."""

    config: Config
    data: Distillation
    show_progress: bool

    def pruned(self, student: Student, divisor: int) -> Student:
        """The student without its least important units, distilled again."""
        features, rows = self.data.features(np.arange(min(FITTED_REQUESTS, len(self.data)))), self.data.requests.rows
        real = torch.from_numpy(features[rows[: len(features)] >= 0])
        return self.tuned(pruned(student, real, _divided(student, divisor)))

    def small(self, student: Student, divisor: int) -> Student:
        """A student that had fewer units from the start, taught as long as a pruned one: what pruning has to beat."""
        settings = self.config.filter
        return train_student(
            self.data,
            hidden=_divided(student, divisor),
            temperature=settings.temperature,
            epochs=2 * settings.epochs,
            learning_rate=settings.learning_rate,
            seed=self.config.seed,
            show_progress=self.show_progress,
        )[0]

    def linear(self, student: Student) -> Variant:
        """The linear part alone, distilled again: the kernel computes it anyway, and no graph runs."""
        bare = copy.deepcopy(student)
        output = bare.mlp[-1].weight
        assert isinstance(output, Tensor)
        nn.init.zeros_(output)
        bare.mlp.requires_grad_(False)
        bare = self.tuned(bare)
        parameters = sum(part.numel() for part in bare.skip.parameters())
        return Variant("linear part", "FP32", parameters=parameters, given=self._input(bare))

    def graphs(self, name: str, student: Student, fp8: bool = False) -> list[Variant]:
        """The student in FP32 and in INT8, as a run ships it; with `fp8` also in FP8, emulated."""
        given, some = self._input(student), np.arange(min(COMPARED, len(self.data)))
        exact = export_student(student)
        quantized, _ = export_filter(student, given, self.data, some, self.config.cascade.rank_depth)
        made = [
            _variant(name, "FP32", student, exact, given.in_float(student)),
            _variant(name, "INT8", student, quantized, given),
        ]
        if fp8:
            low = make_variant(exact, "fp8", calibrated_ranges(quantized))
            made.append(_variant(name, "FP8", student, low, given.in_float(student), stand_in=emulated(low)))
        return made

    def tuned(self, student: Student) -> Student:
        """The student itself, distilled once more."""
        settings = self.config.filter
        fine_tune(
            student,
            self.data,
            temperature=settings.temperature,
            epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            seed=self.config.seed,
            show_progress=self.show_progress,
        )
        return student

    def _input(self, student: Student) -> FilterInput:
        return filter_input(student, self.data.item_vectors, self.data.item_features, self.config.filter.item_precision)


def _divided(student: Student, divisor: int) -> tuple[int, ...]:
    return tuple(max(1, units // divisor) for units in student.settings["hidden"])


def _variant(
    name: str, precision: str, student: Student, graph: bytes, given: FilterInput, stand_in: bytes | None = None
) -> Variant:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "filter.onnx"
        path.write_bytes(stand_in or graph)
        session = open_session(path)
    return Variant(
        f"{name}, {precision}",
        precision,
        tuple(student.settings["hidden"]),
        sum(part.numel() for part in student.parameters()),
        graph,
        given,
        session,
        emulated=stand_in is not None,
    )
