"""What a repository is served on is settled before Triton starts, and said."""

from pathlib import Path

import pytest

from shortlist.errors import ConfigError
from shortlist.serving.model_config import parse_gpus
from shortlist.serving.plans import parse_precisions
from shortlist.serving.repository import GpuOptions, build_repository, served_models
from shortlist.serving.where import Where, settle
from tests.factories import make_bundle


@pytest.fixture(scope="module")
def gpu_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("where")
    options = GpuOptions(parse_precisions(["filter=fp16"]), None)
    build_repository(make_bundle(folder / "bundle"), folder / "gpu", "gpu", gpu=options)
    return folder / "gpu"


@pytest.fixture(scope="module")
def cpu_repository(gpu_repository: Path) -> Path:
    build_repository(gpu_repository.parent / "bundle", gpu_repository.parent / "cpu")
    return gpu_repository.parent / "cpu"


@pytest.fixture(autouse=True)
def without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortlist.devices.probe.what_is_missing", lambda *_: "there is no GPU")


@pytest.mark.parametrize("wanted", [None, "gpu"])
def test_a_gpu_that_is_not_there_is_refused_at_once(wanted: str | None, gpu_repository: Path) -> None:
    with pytest.raises(ConfigError, match="--device = 'gpu': there is no GPU"):
        settle(gpu_repository, wanted, print)


def test_auto_falls_back_and_says_so(gpu_repository: Path) -> None:
    told: list[str] = []
    assert settle(gpu_repository, "auto", told.append) == Where("auto", "cpu", "there is no GPU")
    assert told == ["serving on the CPU: there is no GPU"]


def test_a_gpus_repository_can_be_served_on_the_cpu(gpu_repository: Path) -> None:
    assert settle(gpu_repository, "cpu", print).device == "cpu"


def test_a_repository_for_the_cpu_has_no_plans_for_a_gpu(cpu_repository: Path) -> None:
    with pytest.raises(ConfigError, match="is for the CPU; make one for a GPU"):
        settle(cpu_repository, "gpu", print)


def test_by_default_a_cpu_repository_is_served_on_the_cpu(cpu_repository: Path) -> None:
    assert settle(cpu_repository, None, print) == Where("cpu", "cpu")


def test_an_unknown_device_is_refused(cpu_repository: Path) -> None:
    with pytest.raises(ConfigError, match="--device = 'tpu': cpu, gpu, auto is allowed"):
        settle(cpu_repository, "tpu", print)


def test_missing_plans_are_built_where_there_is_a_gpu(gpu_repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("shortlist.devices.probe.what_is_missing", lambda *_: "")
    monkeypatch.setattr("shortlist.serving.plans.find_builder", lambda: "builder")
    monkeypatch.setattr("shortlist.serving.plans.complete", lambda _, number, builder, tell: asked.append(number))
    assert settle(gpu_repository, None, print) == Where("gpu", "gpu")
    assert asked == ["1"]


def test_plans_are_not_served_on_the_cpu(gpu_repository: Path) -> None:
    with pytest.raises(ConfigError, match="serve them on a GPU"):
        served_models(gpu_repository, True, Where("auto", "cpu", "there is no GPU"))


def test_a_gpus_repository_brings_its_own_stages(gpu_repository: Path) -> None:
    models = served_models(gpu_repository, True, Where("gpu", "gpu"))
    assert models == ["cascade", "before_filter", "filter", "before_ranker", "ranker", "after_ranker", "stages"]


@pytest.fixture
def limited(gpu_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository on a machine with a GPU, of which it may take 8 GB."""
    monkeypatch.setattr("shortlist.devices.probe.what_is_missing", lambda *_: "")
    monkeypatch.setattr("shortlist.serving.plans.find_builder", lambda: "builder")
    monkeypatch.setattr("shortlist.serving.plans.complete", lambda *_: [])
    options = GpuOptions(parse_precisions(["filter=fp16"]), None, memory=8e9)
    build_repository(gpu_repository.parent / "bundle", tmp_path / "out", "gpu", instances=1, gpu=options)
    return tmp_path / "out"


def test_more_instances_than_the_exported_limit_allows_are_refused(limited: Path) -> None:
    assert settle(limited, None, print, 1).device == "gpu"
    with pytest.raises(ConfigError, match=r"--gpu-memory = 8: 100 instances need .*--instances \d+ fits"):
        settle(limited, None, print, 100)


def test_all_gpus_of_the_repository_are_looked_for(
    gpu_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = GpuOptions(parse_precisions(["filter=fp16"]), None, gpus=parse_gpus("1,3", "shards"))
    build_repository(gpu_repository.parent / "bundle", tmp_path / "out", "gpu", gpu=options)
    monkeypatch.setattr("shortlist.devices.probe.what_is_missing", lambda _, gpus: f"no {gpus}")
    with pytest.raises(ConfigError, match=r"no \(1, 3\)"):
        settle(tmp_path / "out", None, print)


def test_instances_are_refused_where_plans_do_not_follow_them(limited: Path) -> None:
    with pytest.raises(ConfigError, match="--instances = 1: not allowed with --stages on a GPU"):
        settle(limited, None, print, 1, stages=True)
