"""Distils the ranker into the filter: the student learns the teacher's scores over retrieved candidates, no labels.

Hinton, Vinyals, Dean, 2015, with a softmax over each request's candidates in place of classes. Requests should look
like those served: full histories, with the scores of the retriever that serves.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from shortlist.models.ranker import MASKED
from shortlist.models.student import Student
from shortlist.training.negatives import CandidateSet
from shortlist.types import Bool, Float32, Int64

BATCH = 32
HELD_OUT = 0.1
FITTED_REQUESTS = 256  # that fix the scales and the linear part
RIDGE = 1e-4  # per row, relative to scaled inputs
FAINT = 1e-4  # deviation below which a feature column counts as constant
TOP = 10


@dataclass(frozen=True)
class StudentReport:
    """How well the student repeats the teacher, on requests it was not trained on."""

    retention: float  # share of the teacher's top 10 that survives when a quarter of the candidates is kept
    retrieval_retention: float  # the same by the retriever's own order
    seconds: float


@dataclass(frozen=True, eq=False)
class Distillation:
    """E requests with the teacher's logits, and the tables that their features are gathered from."""

    requests: CandidateSet
    teacher: Float32  # [E, K]
    user_vectors: Float32  # [E, D]
    item_vectors: Float32  # [N, D]
    item_features: Float32  # [N, F]

    def __len__(self) -> int:
        return len(self.requests)

    def features(self, index: Int64) -> Float32:
        """The student's raw input for the requests at `index`: Float32[B, K, G]."""
        batch = self.requests.subset(index)
        rows = np.maximum(batch.rows, 0)
        return student_features(
            self.user_vectors[index], self.item_vectors[rows], self.item_features[rows], batch.channels, batch.side
        )

    def scores(self, student: Student, index: Int64) -> Float32:
        """The student's scores [B, K] of the requests at `index`; -inf at padding."""
        with torch.no_grad():
            found: Float32 = _scores(student, self.features(index)).numpy()
        return np.where(self.requests.rows[index] >= 0, found, -np.inf).astype(np.float32)


def student_features(
    user_vectors: Float32, item_vectors: Float32, item_features: Float32, channels: Float32, side: Float32
) -> Float32:
    """The student's input Float32[B, K, G] = [u·v (D) | item features (F) | tower, linear | side (S)], raw.

    user_vectors [B, D], item_vectors [B, K, D], item_features [B, K, F], channels [B, K, 2], side [B, S].
    """
    repeated = np.broadcast_to(side[:, None, :], (*channels.shape[:2], side.shape[1]))
    parts = (user_vectors[:, None, :] * item_vectors, item_features, channels, repeated)
    return np.concatenate(parts, axis=-1, dtype=np.float32)


def train_student(
    data: Distillation,
    *,
    hidden: tuple[int, ...] = (64, 32),
    temperature: float = 2.0,
    epochs: int = 10,
    learning_rate: float = 2e-3,
    seed: int = 0,
    show_progress: bool = True,
) -> tuple[Student, StudentReport]:
    """Fit a student to the teacher's logits: its linear part in closed form first, then all of it by distillation."""
    started = time.perf_counter()
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    held_out, taught = _held_out(len(data), rng)
    student = initial_student(data, taught[:FITTED_REQUESTS], hidden)
    _distil(student, data, taught, temperature, epochs, learning_rate, rng, show_progress)
    return student, _report(student, data, held_out, started)


def fine_tune(
    student: Student,
    data: Distillation,
    *,
    temperature: float = 2.0,
    epochs: int = 5,
    learning_rate: float = 1e-3,
    seed: int = 0,
    show_progress: bool = True,
) -> StudentReport:
    """Distil a student further, in place, as after pruning; parameters that need no gradient stay as they are."""
    started = time.perf_counter()
    rng = np.random.default_rng(seed)
    held_out, taught = _held_out(len(data), rng)
    _distil(student, data, taught, temperature, epochs, learning_rate, rng, show_progress)
    return _report(student, data, held_out, started)


def _held_out(count: int, rng: np.random.Generator) -> tuple[Int64, Int64]:
    """Requests that judge, and those that teach: the same whenever `rng` starts from the same seed."""
    order = rng.permutation(count)
    cut = max(1, round(HELD_OUT * count))
    return order[:cut], order[cut:] if count > 1 else order


def _distil(
    student: Student,
    data: Distillation,
    taught: Int64,
    temperature: float,
    epochs: int,
    learning_rate: float,
    rng: np.random.Generator,
    show_progress: bool,
) -> None:
    per_epoch = -(-len(taught) // BATCH)
    optimizer = torch.optim.AdamW(student.parameters(), learning_rate, weight_decay=1e-4)
    steps = max(1, epochs * per_epoch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
    student.train()
    for _ in track(range(epochs), "filter", console=Console(stderr=True), disable=not show_progress):
        for index in np.array_split(rng.permutation(taught), per_epoch):
            loss = _loss(student, data, index, temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    student.eval()


def _report(student: Student, data: Distillation, held_out: Int64, started: float) -> StudentReport:
    teacher, own = data.teacher[held_out], -np.arange(data.teacher.shape[1], dtype=np.float32)[None]
    keep = max(TOP, data.teacher.shape[1] // 4)
    return StudentReport(
        retention=retention(data.scores(student, held_out), teacher, keep),
        retrieval_retention=retention(np.broadcast_to(own, teacher.shape), teacher, keep),
        seconds=time.perf_counter() - started,
    )


def initial_student(data: Distillation, index: Int64, hidden: tuple[int, ...]) -> Student:
    """A student whose linear part is the ridge solution for the teacher, and whose MLP has yet to learn.

    Only differences within a request matter to an order, so features and teacher are centred by request.
    """
    features, real = data.features(index), data.requests.rows[index] >= 0
    student = Student(features.shape[-1], hidden)
    mean, deviation = features[real].mean(axis=0), features[real].std(axis=0)
    scale = np.where(deviation > FAINT, deviation, np.float32(1))  # a constant column stays as it is
    student.mean.copy_(torch.from_numpy(mean))
    student.scale.copy_(torch.from_numpy(scale))
    inputs = _centred((features - mean) / scale, real)[real].astype(np.float64)
    target = _centred(data.teacher[index][..., None], real)[real].astype(np.float64)
    gram = inputs.T @ inputs + RIDGE * len(inputs) * np.eye(inputs.shape[1])
    weights = np.linalg.solve(gram, inputs.T @ target)  # [G, 1]
    with torch.no_grad():
        student.skip.weight.copy_(torch.from_numpy(weights.T))
        output = student.mlp[-1].weight
        assert isinstance(output, Tensor)
        output.mul_(0.1)
    return student


def distillation_loss(student: Tensor, teacher: Tensor, real: Tensor, temperature: float) -> Tensor:
    """Mean KL divergence of the student's softmax from the teacher's over the real candidates, [B, K] each.

    Times temperature squared, which keeps the gradient's size whatever the temperature.
    """
    wanted = torch.log_softmax((teacher / temperature).masked_fill(~real, MASKED), dim=1)
    given = torch.log_softmax((student / temperature).masked_fill(~real, MASKED), dim=1)
    divergence = (wanted.exp() * (wanted - given)).masked_fill(~real, 0.0).sum(dim=1)
    return divergence.mean() * temperature**2


def retention(filtering: Float32, teacher: Float32, keep: int, top: int = TOP) -> float:
    """Share of the teacher's `top` among all candidates that are among the `keep` best by `filtering`; [E, K] each."""
    best = np.argsort(-teacher, axis=1, kind="stable")[:, :top]
    kept = np.argsort(-filtering, axis=1, kind="stable")[:, :keep]
    return float((best[:, :, None] == kept[:, None, :]).any(axis=2).mean())


def _loss(student: Student, data: Distillation, index: Int64, temperature: float) -> Tensor:
    real = torch.from_numpy(data.requests.rows[index] >= 0)
    teacher = torch.from_numpy(data.teacher[index])
    return distillation_loss(_scores(student, data.features(index)), teacher, real, temperature)


def _scores(student: Student, features: Float32) -> Tensor:
    scores: Tensor = student(torch.from_numpy(features).flatten(0, 1))
    return scores.view(features.shape[:2])


def _centred(values: Float32, real: Bool) -> Float32:
    """Values [B, K, G] minus each request's mean over its real candidates."""
    counted = real[..., None]
    total = np.where(counted, values, 0).sum(axis=1, keepdims=True)  # padding may hold -inf
    mean = total / np.maximum(counted.sum(axis=1, keepdims=True), 1)
    centred: Float32 = values - mean
    return centred
