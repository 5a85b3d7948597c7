"""Where precisions compete, the target's measurement chooses: on a stand-in whose plans cost what we say."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from shortlist.devices.timing import time_plans
from shortlist.errors import BundleError, ConfigError
from shortlist.export.engines import Engine, EngineCache, make_recipe, open_engine, write_plan
from shortlist.export.tensorrt import Backend, Built, Profile, bucket_profiles
from shortlist.serving.plans import Builder, complete, parse_precisions, read_precisions, wanted_plans
from shortlist.serving.repository import GpuOptions, build_repository
from shortlist.serving.rivals import bucket_weights
from tests.devices.fake import SM, install
from tests.devices.fake_tensorrt import VERSION

ROOT = Path(__file__).parents[2]
FP16_WINS, INT8_WINS = {"int8": 2e-3, "fp16": 1e-3}, {"int8": 1e-3, "fp16": 2e-3}


class Builds(EngineCache):
    """Makes plans for the stand-in: of a precision in `refused` none."""

    def __init__(self, folder: Path, costs: dict[str, float], refused: Sequence[str] = ()) -> None:
        super().__init__(folder, Backend("tensorrt", VERSION, None))
        self.costs, self.refused = costs, refused
        folder.mkdir()

    def engine(self, model: str, precision: str, graph: bytes, profiles: Sequence[Profile], sm: int) -> Engine:
        if precision in self.refused:
            raise BundleError(f"TensorRT refuses {precision}")
        recipe = make_recipe(model, precision, graph, profiles, sm, self.backend)
        content = {"graph": base64.b64encode(graph).decode(), "profiles": recipe.profiles}
        content |= {"cost": self.costs.get(precision, 1e-3)}
        write_plan(self.folder / f"{recipe.stem}.plan", recipe, Built(json.dumps(content).encode(), (), 0.0, b""))
        return open_engine(self.folder / f"{recipe.stem}.plan", recipe)


Target = Callable[..., Builder]


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    """A machine with a GPU on which a precision costs so many seconds a run."""
    install(monkeypatch)
    monkeypatch.setattr("shortlist.devices.timing.perf_counter", lambda: sys.modules["tensorrt"].clock)

    def made(costs: dict[str, float], refused: Sequence[str] = (), name: str = "plans") -> Builder:
        return Builder(Builds(tmp_path / name, costs, refused), SM, time_plans)

    return made


def export(run: Path, out: Path, builder: Builder | None, *precisions: str, tell: Any = print) -> Path:
    return build_repository(
        run / "bundle", out, "gpu", gpu=GpuOptions(parse_precisions(precisions), builder, tell=tell)
    )


def notes(version: Path) -> dict[str, Any]:
    return dict(json.loads((version / "engines" / "precisions.json").read_text()))


@pytest.mark.parametrize(("costs", "chosen"), [(FP16_WINS, "fp16"), (INT8_WINS, "int8")])
def test_the_faster_precision_is_built_everywhere(
    costs: dict[str, float], chosen: str, planted_run: Path, tmp_path: Path, target: Target
) -> None:
    version = export(planted_run, tmp_path / "out", target(costs))
    wanted = (version / "engines" / "rivals" / f"filter-{chosen}.onnx").read_bytes()
    assert read_precisions(version / "engines") == {"user": "fp16", "filter": chosen, "ranker": "fp16"}
    plans = [plan for plan in wanted_plans(tmp_path / "out", "1") if plan.model == "filter"]
    assert [plan.graph == wanted for plan in plans] == [True, True]
    manifests = [json.loads(plan.path.with_suffix(".json").read_text()) for plan in plans]
    assert [manifest["recipe"]["precision"] for manifest in manifests] == [chosen, chosen]


def test_timings_of_every_bucket_are_noted_and_told(planted_run: Path, tmp_path: Path, target: Target) -> None:
    told: list[str] = []
    version = export(planted_run, tmp_path / "out", target(FP16_WINS), tell=told.append)
    measured = notes(version)["measured"]["filter"]
    assert measured["score_ms"] == {"int8": 2.0, "fp16": 1.0}
    assert (measured["sm"], measured["tensorrt"], measured["usual_batch"]) == (SM, VERSION, 8)
    assert {label.split()[0] for label in measured["bucket_ms"]["int8"]} == {"1", "2", "4", "8", "16", "32", "64"}
    assert "filter: int8 2.0000 ms, fp16 1.0000 ms measured, fp16 is taken" in told


def test_the_first_start_chooses_where_the_export_had_no_gpu(planted_run: Path, tmp_path: Path, target: Target) -> None:
    version = export(planted_run, tmp_path / "out", None)
    assert notes(version) == {
        "user": "fp16",
        "filter": "int8",
        "ranker": "fp16",
        "rivals": {"filter": ["int8", "fp16"]},
    }
    complete(tmp_path / "out", "1", target(FP16_WINS))
    assert read_precisions(version / "engines")["filter"] == "fp16"


def test_a_choice_is_made_once(planted_run: Path, tmp_path: Path, target: Target) -> None:
    version = export(planted_run, tmp_path / "out", target(FP16_WINS))
    told: list[str] = []
    assert export(planted_run, tmp_path / "out", target(INT8_WINS, name="other"), tell=told.append) == version
    assert told == []
    assert read_precisions(version / "engines")["filter"] == "fp16"


def test_another_tensorrt_measures_again(planted_run: Path, tmp_path: Path, target: Target) -> None:
    version = export(planted_run, tmp_path / "out", target(FP16_WINS))
    noted = notes(version)
    noted["measured"]["filter"]["tensorrt"] = "10.1.0"
    (version / "engines" / "precisions.json").write_text(json.dumps(noted))
    complete(tmp_path / "out", "1", target(INT8_WINS, name="other"))
    assert read_precisions(version / "engines")["filter"] == "int8"


def test_a_precision_that_was_asked_for_is_not_measured(planted_run: Path, tmp_path: Path, target: Target) -> None:
    version = export(planted_run, tmp_path / "out", target(FP16_WINS), "filter=int8")
    assert notes(version) == {"user": "fp16", "filter": "int8", "ranker": "fp16"}
    assert not (version / "engines" / "rivals").exists()


def test_other_rivals_become_the_next_version(planted_run: Path, tmp_path: Path) -> None:
    export(planted_run, tmp_path / "out", None)
    assert export(planted_run, tmp_path / "out", None, "filter=int8,fp16,fp8").name == "2"


def test_a_rival_that_does_not_build_does_not_compete(planted_run: Path, tmp_path: Path, target: Target) -> None:
    version = export(planted_run, tmp_path / "out", target(INT8_WINS, ["int8"]))
    assert read_precisions(version / "engines")["filter"] == "fp16"


def test_where_no_rival_builds_nothing_is_published(planted_run: Path, tmp_path: Path, target: Target) -> None:
    with pytest.raises(BundleError, match="TensorRT refuses fp16"):
        export(planted_run, tmp_path / "out", target(INT8_WINS, ["int8", "fp16"]))
    assert not (tmp_path / "out").exists()


def test_precisions_of_other_types_cannot_compete() -> None:
    with pytest.raises(ConfigError, match="only int8, fp16, fp8 can be measured against each other"):
        parse_precisions(["filter=int8,fp32"])


def test_half_the_weight_lies_on_the_usual_bucket() -> None:
    weights = bucket_weights(bucket_profiles([500, 1000]))
    assert weights[3] == 0.5  # batches 1, 2, 4, 8
    assert sum(weights) == pytest.approx(1)


def test_rivals_take_turns(planted_run: Path, tmp_path: Path, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    builder, turns = target(FP16_WINS), []
    monkeypatch.setattr(
        "shortlist.devices.timing._once", lambda scorer, *_: turns.append(scorer.path.parent.name) or 1e-3
    )
    export(planted_run, tmp_path / "out", builder)
    assert turns[:4] == ["int8", "fp16", "int8", "fp16"]


CHOOSES = """
import sys, time
from pathlib import Path
import pytest
from shortlist.serving.plans import Builder, complete
from tests.devices.fake import SM, install
from tests.serving.test_rivals import FP16_WINS, INT8_WINS, Builds

repository, winner = Path(sys.argv[1]), sys.argv[2]
costs = {"int8": INT8_WINS, "fp16": FP16_WINS}[winner]

def tell(line):
    print(line, flush=True)
    if "another process" in line:
        (repository.parent / "waits").touch()

def measure(rivals, model):
    until = time.monotonic() + 60
    while not (repository.parent / "waits").exists() and time.monotonic() < until:
        time.sleep(0.01)
    return {name: [costs[name]] * 14 for name in rivals}

with pytest.MonkeyPatch.context() as patch:
    install(patch)
    builder = Builder(Builds(repository.parent / winner, costs), SM, measure)
    (repository.parent / f"{winner}-came").touch()
    while len(list(repository.parent.glob("*-came"))) < 2:
        time.sleep(0.01)
    complete(repository, "1", builder, tell)
"""


def test_of_two_processes_one_chooses_and_the_other_takes_its_choice(planted_run: Path, tmp_path: Path) -> None:
    version = export(planted_run, tmp_path / "out", None)
    command = [sys.executable, "-c", CHOOSES, str(tmp_path / "out")]
    both = [
        subprocess.Popen([*command, winner], stdout=subprocess.PIPE, text=True, cwd=ROOT) for winner in ("int8", "fp16")
    ]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(" measured, " in text for text in said) == 1
    assert sum("another process builds the plans of version 1" in text for text in said) == 1
    chosen = read_precisions(version / "engines")["filter"]
    plans = [plan for plan in wanted_plans(tmp_path / "out", "1") if plan.model == "filter"]
    built = [json.loads(plan.path.with_suffix(".json").read_text())["recipe"]["precision"] for plan in plans]
    assert built == [chosen, chosen]
