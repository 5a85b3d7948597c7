"""config.pbtxt: generated from the specs, checked in, and read back."""

import json
from pathlib import Path

import pytest

from shortlist.errors import ServerError
from shortlist.serving.model_config import config_json, config_pbtxt
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
