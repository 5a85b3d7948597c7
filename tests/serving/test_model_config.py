"""config.pbtxt: generated from the specs, checked in, and read back."""

import json
from pathlib import Path

import pytest

from shortlist.devices.faiss_gpu import Placement
from shortlist.errors import ConfigError, ServerError
from shortlist.serving.model_config import Gpus, config_json, config_pbtxt, gpus_of, parse_gpus, placement, read_config
from shortlist.serving.tensors import CASCADE, ENSEMBLE, STAGES, Model

CHECKED_IN = Path(__file__).parents[2] / "model_repository"
MODELS = (CASCADE, *STAGES, ENSEMBLE)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_the_checked_in_configuration_is_the_generated_one(model: Model) -> None:
    assert (CHECKED_IN / model.name / "config.pbtxt").read_text() == config_pbtxt(model)


def test_inputs_of_any_length_may_be_batched_ragged(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text(config_pbtxt(CASCADE))
    config = json.loads(config_json(tmp_path / "config.pbtxt", None))
    assert {i["name"]: i.get("allow_ragged_batch", False) for i in config["input"]} == {
        "user_id": False,
        "history": True,
        "exclude": True,
    }


def test_batching_has_no_queue_policy(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text(config_pbtxt(CASCADE))
    assert json.loads(config_json(tmp_path / "config.pbtxt", None))["dynamic_batching"] == {}


def test_the_number_of_instances_can_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text(config_pbtxt(CASCADE, instances=2))
    assert json.loads(config_json(tmp_path / "config.pbtxt", 7))["instance_group"][0]["count"] == 7


def test_an_unreadable_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text("backend: python {")
    with pytest.raises(ServerError, match=r"config.pbtxt: cannot be read"):
        config_json(tmp_path / "config.pbtxt", None)


def _written(folder: Path, gpus: Gpus) -> Path:
    (folder / "config.pbtxt").write_text(config_pbtxt(CASCADE, 2, gpus))
    return folder / "config.pbtxt"


@pytest.mark.parametrize(
    ("given", "homes"), [(("0", None), [0]), (("0,1", None), [0, 1]), (("1,0", "shards"), [1])], ids=str
)
def test_instances_lie_on_every_gpu_or_where_the_spread_index_begins(
    given: tuple[str, str | None], homes: list[int], tmp_path: Path
) -> None:
    gpus = parse_gpus(*given)
    path = _written(tmp_path, gpus)
    (group,) = read_config(path).instance_group
    assert (list(group.gpus), group.count, gpus_of(read_config(path))) == (homes, 2, gpus)


@pytest.mark.parametrize(("device", "homes"), [("gpu", [0, 1]), ("cpu", [])])
def test_another_device_keeps_or_drops_the_gpus(device: str, homes: list[int], tmp_path: Path) -> None:
    config = json.loads(config_json(_written(tmp_path, parse_gpus("0,1")), None, "auto", device))
    assert config["instance_group"][0].get("gpus", []) == homes


@pytest.mark.parametrize("numbers", ["", "0,", "a", "-1", "0,0", "0,00", "1.5", "99999"])
def test_numbers_that_no_gpu_has_are_refused(numbers: str) -> None:
    with pytest.raises(ConfigError, match=f"--gpus = '{numbers}': numbers of GPUs from 0, each once"):
        parse_gpus(numbers)


@pytest.mark.parametrize(
    ("numbers", "spread", "said"),
    [
        ("0,1", "both", "'both': shards or replicas is allowed"),
        ("0", "shards", "'shards': allowed with several --gpus"),
    ],
)
def test_a_spread_that_cannot_be_is_refused(numbers: str, spread: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"--index-gpus = {said}"):
        parse_gpus(numbers, spread)


@pytest.mark.parametrize(
    ("given", "own", "expected"),
    [
        (("0,1", None), 1, Placement((1,))),
        (("2,0,1", "shards"), 2, Placement((2, 0, 1), "shards")),
        (("0,1", "replicas"), 0, Placement((0, 1), "replicas")),
    ],
    ids=str,
)
def test_an_instance_takes_the_gpu_that_triton_gives_it(
    given: tuple[str, str | None], own: int, expected: Placement, tmp_path: Path
) -> None:
    config = config_json(_written(tmp_path, parse_gpus(*given)), None)
    told = {"model_config": config, "model_instance_kind": "GPU", "model_instance_device_id": str(own)}
    assert placement(told) == expected


def test_an_instance_on_the_cpu_has_no_gpu_of_its_own(tmp_path: Path) -> None:
    config = config_json(_written(tmp_path, parse_gpus("0")), None, "auto", "cpu")
    told = {"model_config": config, "model_instance_kind": "CPU", "model_instance_device_id": "3"}
    assert placement(told) == Placement((0,))


def test_an_instance_is_told_the_kind_of_its_index_and_the_memory_to_search(tmp_path: Path) -> None:
    config = config_json(_written(tmp_path, Gpus((0,), index="ivf_pq", temp_memory=64)), None)
    told = {"model_config": config, "model_instance_kind": "GPU", "model_instance_device_id": "0"}
    assert placement(told) == Placement((0,), kind="ivf_pq", temp_memory_mib=64)
