"""Graphs of real widths from untrained modules, and requests that look like real ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from shortlist.export.onnx import export_ranker, export_student
from shortlist.export.qdq import measured_ranges
from shortlist.export.quantize import quantize_student
from shortlist.export.samples import Subject
from shortlist.export.tensorrt import bucket_profiles
from shortlist.export.twin import calibrated_ranges
from shortlist.models.ranker import Ranker
from shortlist.models.student import CLIP, Student

WIDTH, REQUESTS, CANDIDATES = 124, 12, 500
DIM, FEATURES, SIDE, HISTORY, DEPTH = 16, 9, 51, 50, 100
BATCHES = (1, 4)  # fewer buckets than are served: every one takes time to build


@pytest.fixture(scope="session")
def float_filter() -> bytes:
    torch.manual_seed(0)
    student = Student(WIDTH, (64, 32))
    nn.init.normal_(student.mlp[-1].weight, std=0.1)
    return export_student(student)


@pytest.fixture(scope="session")
def filter_inputs() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(REQUESTS * CANDIDATES, WIDTH)).clip(-CLIP, CLIP).astype(np.float32)
    return {"features": features, "linear": rng.normal(size=len(features)).astype(np.float32)}


@pytest.fixture(scope="session")
def cpu_filter(float_filter: bytes, filter_inputs: dict[str, Any]) -> bytes:
    """The graph that the CPU serves: U8S8."""
    return quantize_student(float_filter, filter_inputs, CLIP)


@pytest.fixture(scope="session")
def float_ranker() -> bytes:
    torch.manual_seed(0)
    ranker = Ranker(10, DIM, FEATURES, SIDE, heads=2, hidden=32)
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return export_ranker(ranker)


@pytest.fixture(scope="session")
def ranker_inputs() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shapes = {"history": (HISTORY, DIM), "candidates": (DEPTH, DIM), "features": (DEPTH, FEATURES), "side": (SIDE,)}
    inputs = {name: rng.normal(size=(REQUESTS, *shape)).astype(np.float32) for name, shape in shapes.items()}
    lengths = rng.integers(0, HISTORY + 1, REQUESTS)
    lengths[0] = 0
    return {"lengths": lengths, **inputs}


@pytest.fixture(scope="session")
def filter_subject(float_filter: bytes, cpu_filter: bytes, filter_inputs: dict[str, Any]) -> Subject:
    profiles, real = bucket_profiles([CANDIDATES], batches=BATCHES), np.ones((REQUESTS, CANDIDATES), np.bool_)
    return Subject("filter", float_filter, calibrated_ranges(cpu_filter), profiles, filter_inputs, real, (10, DEPTH))


@pytest.fixture(scope="session")
def ranker_subject(float_ranker: bytes, ranker_inputs: dict[str, Any]) -> Subject:
    profiles, real = bucket_profiles([DEPTH], HISTORY, BATCHES), np.ones((REQUESTS, DEPTH), np.bool_)
    ranges = measured_ranges(float_ranker, ranker_inputs)
    return Subject("ranker", float_ranker, ranges, profiles, ranker_inputs, real, (10,))
