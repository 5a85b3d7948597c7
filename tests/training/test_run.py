"""One small run from log to bundle: complete, reused while valid, and as good through the bundle as it was in torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from shortlist.bundle import Bundle
from shortlist.cascade import Cascade
from shortlist.config import Config, SplitConfig
from shortlist.errors import BundleError, ConfigError, DataError
from shortlist.evaluation.experiment import evaluate_run
from shortlist.models.retriever import Retriever
from shortlist.profiles.replay import user_batch
from shortlist.training.run import ensure_run, load_config, load_split, train
from shortlist.types import Request, Slate


def test_the_cascade_learns_the_walk(planted_run: Path) -> None:
    """The next item is one of two; chance alone would hit one time in twelve."""
    evaluation = evaluate_run(planted_run, "leave-one-out", baselines=False).evaluation
    assert evaluation.models["cascade"]["hr@10"] > 0.8
    assert evaluation.stages["filter"]["retention@10"] > 0.9
    assert max(v for k, v in evaluation.parity.items() if "torch - onnx" in k) < 1e-4


def test_the_bundle_serves_what_the_retriever_learned(planted_run: Path) -> None:
    split, features = load_split(planted_run)
    cascade, retriever = Cascade.load(planted_run / "bundle"), Retriever.load(planted_run / "models")
    users = user_batch(cascade.users, features, split.test, 0, 50)
    rows, lengths = split.test.histories(0, 50, cascade.config.history)
    tower, linear = retriever.scores(rows, lengths, features.side(split.test, 0, 50))
    found = cascade.retrieve(users, 40)
    for b in range(50):
        np.testing.assert_allclose(found.scores[b], (tower + linear)[b, found.rows[b]], rtol=1e-3, atol=1e-4)


def test_the_bundle_answers_users_by_their_own_ids(planted_run: Path) -> None:
    (slate,) = Cascade.load(planted_run / "bundle").recommend([Request(user_id=b"user7")])
    assert isinstance(slate, Slate)
    assert len(slate.item_ids) == 10
    assert all(i.startswith(b"item") for i in slate.item_ids)


def test_a_finished_run_is_left_alone(planted_config: Config, planted_run: Path) -> None:
    before = (planted_run / "run.json").stat().st_mtime_ns
    train(planted_config, planted_run, show_progress=False)
    assert (planted_run / "run.json").stat().st_mtime_ns == before


def test_the_same_seed_trains_the_same_cascade(planted_config: Config, planted_run: Path, tmp_path: Path) -> None:
    again = train(planted_config, tmp_path / "again", show_progress=False)
    first, second = (Bundle.open(r / "bundle").array("table") for r in (planted_run, again))
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_another_protocol_trains_a_sibling_that_has_not_seen_its_test(
    planted_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sibling = ensure_run(planted_run, "cold-users")
    assert capfd.readouterr().out == ""  # progress is no result
    assert sibling == planted_run / "protocols" / "cold-users"
    split, _ = load_split(sibling)
    assert not set(np.unique(split.train.users())) & set(split.test.users.tolist())
    assert ensure_run(planted_run, "leave-one-out") == planted_run


def test_a_run_tells_what_made_it(planted_config: Config, planted_run: Path) -> None:
    assert load_config(planted_run) == planted_config
    assert set(json.loads((planted_run / "run.json").read_text())) >= {"config", "data", "reports", "parity", "seconds"}


def test_a_folder_without_a_run_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a run"):
        load_config(tmp_path)


def test_a_folder_of_something_else_is_left_alone(planted_config: Config, tmp_path: Path) -> None:
    precious = tmp_path / "models" / "precious"
    precious.parent.mkdir()
    precious.write_text("not ours")
    with pytest.raises(ConfigError, match="holds files but no run"):
        train(planted_config, tmp_path, show_progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["models"]
    with pytest.raises(ConfigError, match="it is a file"):
        train(planted_config, precious, show_progress=False)
    assert precious.read_text() == "not ours"


def test_data_that_cannot_be_split_leave_the_earlier_run_as_it_was(planted_config: Config, tmp_path: Path) -> None:
    (tmp_path / "begun.json").write_text("{}")
    (tmp_path / "bundle").mkdir()
    rolling = planted_config.model_copy(update={"split": SplitConfig(protocol="rolling")})
    with pytest.raises(DataError, match="needs timestamps"):
        train(rolling, tmp_path, show_progress=False)
    assert (tmp_path / "bundle").exists()


def test_a_damaged_record_of_the_beginning_starts_anew(
    planted_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shortlist.training.stages.train_stages", stop)
    (tmp_path / "begun.json").write_text("{")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(KeyboardInterrupt):
        train(planted_config, tmp_path, show_progress=False)
    assert set(json.loads((tmp_path / "begun.json").read_text())) == {"config", "data", "shortlist"}
    assert not (tmp_path / "checkpoints").exists()


def test_a_sample_of_the_held_out_events_can_be_evaluated(planted_run: Path) -> None:
    evaluation = evaluate_run(planted_run, "leave-one-out", baselines=False, sample=30).evaluation
    assert evaluation.examples == 30
    assert evaluation.models["cascade"]["hr@10"] > 0.6
