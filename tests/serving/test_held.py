"""Exporting again into a repository: what is left out stays as it is, what differs is refused or told."""

from pathlib import Path
from typing import Any

import pytest

from shortlist.errors import ConfigError
from shortlist.serving.model_config import Gpus, gpus_of, parse_gpus, read_config
from shortlist.serving.plans import held_precisions, parse_precisions
from shortlist.serving.repository import GpuOptions, build_repository
from tests.factories import make_bundle

PRECISIONS = parse_precisions(["filter=fp16"])
GIVEN: dict[str, Any] = {"gpus": parse_gpus("0,1", "shards"), "memory": 30e9, "index": "ivf_sq8", "temp_memory": 64}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return [make_bundle(folder / str(seed), items=30, users=3, seed=seed) for seed in range(2)]


def export(bundle: Path, out: Path, instances: int | None = None, **options: Any) -> Path:
    return build_repository(bundle, out, "gpu", instances=instances, gpu=GpuOptions(PRECISIONS, None, **options))


def held(out: Path) -> tuple[int, Gpus]:
    config = read_config(out / "cascade" / "config.pbtxt")
    return config.instance_group[0].count, gpus_of(config)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"instances": 5}, "--instances = 5 (it has 3)"),
        ({"gpus": parse_gpus("0,2", "shards")}, "--gpus = 0,2 (it has 0,1)"),
        ({"gpus": parse_gpus("0,1")}, "--index-gpus = none (it has shards)"),
        ({"memory": 20e9}, "--gpu-memory = 20 (it has 30)"),
        ({"index": "flat"}, "--gpu-index = flat (it has ivf_sq8)"),
        ({"temp_memory": 128}, "--gpu-temp-memory = 128 (it has 64)"),
    ],
    ids=str,
)
def test_other_options_for_a_bundle_that_is_held_are_refused(
    options: dict[str, Any], complaint: str, bundles: list[Path], tmp_path: Path
) -> None:
    export(bundles[0], tmp_path / "out", 3, **GIVEN)
    before = held(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"holds this bundle already, as version 1.*another --out") as refused:
        export(bundles[0], tmp_path / "out", **options)
    assert str(refused.value).startswith(f"{complaint}: ")
    assert held(tmp_path / "out") == before


def test_the_same_options_are_none(bundles: list[Path], tmp_path: Path) -> None:
    version = export(bundles[0], tmp_path / "out", 3, **GIVEN)
    assert export(bundles[0], tmp_path / "out", 3, **GIVEN) == version


@pytest.mark.parametrize("bundle", [0, 1], ids=["the same bundle", "another bundle"])
def test_options_that_are_left_out_stay(bundle: int, bundles: list[Path], tmp_path: Path) -> None:
    export(bundles[0], tmp_path / "out", 3, **GIVEN)
    export(bundles[bundle], tmp_path / "out")
    assert held(tmp_path / "out") == (3, Gpus((0, 1), "shards", 30e9, "ivf_sq8", 64))


def test_another_bundle_brings_other_options(bundles: list[Path], tmp_path: Path) -> None:
    export(bundles[0], tmp_path / "out", 3, **GIVEN)
    assert export(bundles[1], tmp_path / "out", 1, index="flat").name == "2"
    assert held(tmp_path / "out") == (1, Gpus((0, 1), "shards", 30e9, "flat", 64))


def test_the_instances_of_a_cpus_repository_are_held_too(bundles: list[Path], tmp_path: Path) -> None:
    build_repository(bundles[0], tmp_path / "out", instances=3)
    build_repository(bundles[0], tmp_path / "out", stages=True)
    assert read_config(tmp_path / "out" / "retrieve" / "config.pbtxt").instance_group[0].count == 3
    with pytest.raises(ConfigError, match=r"--instances = 4 \(it has 3\)"):
        build_repository(bundles[0], tmp_path / "out", instances=4)


@pytest.mark.parametrize(
    ("index", "complaint"), [("hnsw", "'hnsw': auto, flat"), ("cagra", "'cagra': lies on one GPU")]
)
def test_an_index_that_cannot_be_is_refused(index: str, complaint: str, bundles: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"--gpu-index = {complaint}"):
        export(bundles[0], tmp_path / "out", gpus=parse_gpus("0,1", "shards"), index=index)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", [["filter=fp16", "user=fp32"], ["filter=measure"], ["filter=int8,fp16,fp8"]], ids=str)
def test_precisions_are_found_as_they_were_asked_for(given: list[str], planted_run: Path, tmp_path: Path) -> None:
    for _ in range(2):
        asked = parse_precisions(given, held_precisions(tmp_path / "out"))
        version = build_repository(planted_run / "bundle", tmp_path / "out", "gpu", gpu=GpuOptions(asked, None))
        given = []
    assert version.name == "1"
