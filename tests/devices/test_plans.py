"""Plans run in the smallest bucket that holds their inputs, replay what was captured, and are refused where unfit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist.bundle import Bundle
from shortlist.devices.cpu import Cpu
from shortlist.devices.plans import PlanScorer, open_plan
from shortlist.errors import BundleError
from tests.devices.fake import Machine, install, write_plans
from tests.factories import DIM, make_bundle, tiny_encoders


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(make_bundle(tmp_path_factory.mktemp("plans") / "bundle"))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return install(monkeypatch)


def _open(machine: Machine, engines: Path, model: str = "user") -> PlanScorer:
    return open_plan(engines, model, machine, machine.cuda.Stream(non_blocking=True))


def _people(batch: int, length: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch)
    return {
        "history": rng.normal(size=(batch, length, DIM)).astype(np.float32),
        "lengths": np.full(batch, length, np.int64),
        "side": rng.normal(size=(batch, tiny_encoders().side_width)).astype(np.float32),
    }


def _scored(machine: Machine, scorer: PlanScorer, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return np.array(scorer({name: machine.asarray(array) for name, array in inputs.items()}))


@pytest.mark.parametrize(
    "batch", [1, 3, 64, 150], ids=["its own bucket", "padded", "the largest", "beyond the largest"]
)
def test_a_batch_of_any_size_scores_as_on_the_cpu(bundle: Bundle, machine: Machine, tmp_path: Path, batch: int) -> None:
    scorer = _open(machine, write_plans(bundle, tmp_path / "engines"))
    _scored(machine, scorer, _people(64, 50))  # leaves a long history in the buffers
    inputs = _people(batch)
    inputs["history"] = np.pad(inputs["history"], ((0, 0), (0, 43), (0, 0)))
    np.testing.assert_allclose(_scored(machine, scorer, inputs), Cpu().scorer(bundle, "user")(inputs), rtol=1e-5)


def test_a_run_is_a_replay_without_waiting(bundle: Bundle, machine: Machine, tmp_path: Path) -> None:
    scorer = _open(machine, write_plans(bundle, tmp_path / "engines"))
    waits, streams = machine.counts.waits, machine.streams
    inputs = {name: machine.asarray(array) for name, array in _people(2).items()}
    sys.modules["tensorrt"].refuses_to_run = True  # type: ignore[attr-defined]
    scorer(inputs)
    assert (machine.counts.waits, len(streams)) == (waits, 1)


def test_an_input_wider_than_every_profile_is_refused(bundle: Bundle, machine: Machine, tmp_path: Path) -> None:
    scorer = _open(machine, write_plans(bundle, tmp_path / "engines"))
    with pytest.raises(BundleError, match=r"has no profile for .*'history': \(1, 51, 16\).*build it again"):
        _scored(machine, scorer, _people(1, 51))


def test_the_type_of_an_input_is_the_plans(bundle: Bundle, machine: Machine, tmp_path: Path) -> None:
    assert _open(machine, write_plans(bundle, tmp_path / "engines"), "filter").dtype("features") == "uint8"


@pytest.mark.parametrize(
    ("recipe", "said"),
    [({"sm": 89}, "sm = 89 instead of 90"), ({"version": "10.1.0"}, "version = 10.1.0 instead of 10.9.0")],
    ids=["another GPU", "another TensorRT"],
)
def test_a_plan_for_another_machine_is_refused(
    bundle: Bundle, machine: Machine, tmp_path: Path, recipe: dict[str, Any], said: str
) -> None:
    engines = write_plans(bundle, tmp_path / "engines", **recipe)
    with pytest.raises(BundleError, match=said):
        _open(machine, engines)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("user.onnx", "graph = .* instead of"),
        ("user.plan", "does not match its checksum"),
        ("user.json", "is no manifest of a plan"),
    ],
)
def test_a_changed_file_is_refused(bundle: Bundle, machine: Machine, tmp_path: Path, file: str, said: str) -> None:
    engines = write_plans(bundle, tmp_path / "engines")
    (engines / file).write_bytes((engines / "ranker.onnx").read_bytes())
    with pytest.raises(BundleError, match=said):
        _open(machine, engines)


def test_a_missing_plan_is_named(bundle: Bundle, machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir()
    with pytest.raises(BundleError, match=r"user.onnx: cannot be read .*export the GPU repository again"):
        _open(machine, tmp_path / "engines")


def test_a_plan_that_tensorrt_cannot_load_is_refused(bundle: Bundle, machine: Machine, tmp_path: Path) -> None:
    sys.modules["tensorrt"].loads = False  # type: ignore[attr-defined]
    with pytest.raises(BundleError, match="cannot load the plan"):
        _open(machine, write_plans(bundle, tmp_path / "engines"))


def test_a_plan_that_does_not_run_is_refused(bundle: Bundle, machine: Machine, tmp_path: Path) -> None:
    sys.modules["tensorrt"].refuses_to_run = True  # type: ignore[attr-defined]
    with pytest.raises(BundleError, match="TensorRT refuses a first run"):
        _open(machine, write_plans(bundle, tmp_path / "engines"))


def test_a_plan_that_cannot_be_captured_is_refused(bundle: Bundle, machine: Machine, tmp_path: Path) -> None:
    sys.modules["tensorrt"].refuses_capture = True  # type: ignore[attr-defined]
    with pytest.raises(BundleError, match="TensorRT refuses a captured run"):
        _open(machine, write_plans(bundle, tmp_path / "engines"))


def test_all_sizes_of_a_plan_share_the_memory_in_between(bundle: Bundle, machine: Machine, tmp_path: Path) -> None:
    scorer = _open(machine, write_plans(bundle, tmp_path / "engines"))
    assert len(scorer._engine.contexts) > 1
    assert len({context.scratch for context in scorer._engine.contexts}) == 1
