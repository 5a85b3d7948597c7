"""The loop: it learns, repeats itself under a seed, stops, resumes exactly, and trains in several processes."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shortlist.data.log import InteractionLog
from shortlist.data.splits import Examples, Split, make_split
from shortlist.errors import ConfigError, DataError
from shortlist.models.items import ItemTower
from shortlist.models.transformer import TransformerTower
from shortlist.training.loop import TrainingResult, TrainingSettings, train_tower
from shortlist.training.validation import validation_ndcg
from shortlist.types import Float32

USERS, ITEMS, EVENTS = 120, 30, 7


def circle_split() -> Split:
    """Everybody walks the same circle of items from another start: the next item is certain."""
    start = np.random.default_rng(0).integers(0, ITEMS, USERS)
    rows = (start[:, None] + np.arange(EVENTS)).ravel() % ITEMS
    users, names = np.repeat(np.arange(USERS), EVENTS), [str(i) for i in range(USERS)]
    return make_split(InteractionLog.from_arrays(users, rows, user_ids=names, item_ids=names[:ITEMS]), "leave-one-out")


SPLIT = circle_split()


def train(folder: Path | None = None, **options: Any) -> tuple[TrainingResult, TransformerTower, ItemTower]:
    torch.manual_seed(1)
    side_width = 1 if options.get("side") else 0
    tower, items = TransformerTower(8, side_width, layers=1, history=6, dropout=0.1), ItemTower(ITEMS, 8)
    given = {name: options.pop(name) for name in ("side", "weights", "devices") if name in options}
    usual = {"epochs": 3, "batch_tokens": 60, "learning_rate": 0.02, "window": 6, "mask_seen": True}
    settings = TrainingSettings(**usual | options)
    result = train_tower(
        tower, items, SPLIT.train, SPLIT.validation, settings, checkpoint_dir=folder, show_progress=False, **given
    )
    return result, tower, items


def test_it_learns_a_certain_next_item() -> None:
    assert train(epochs=6)[0].ndcg > 0.95


def test_it_learns_with_sampled_negatives() -> None:
    assert train(epochs=6, negatives=16)[0].ndcg > 0.9


def test_the_best_weights_are_kept() -> None:
    result, tower, items = train()
    assert not tower.training
    assert validation_ndcg(tower, items, SPLIT.validation, None, 6, True) == result.ndcg
    assert result.ndcg == result.curve[result.best_epoch - 1]


def test_one_seed_gives_one_result() -> None:
    assert train(seed=3)[0].curve == train(seed=3)[0].curve
    assert train(seed=3)[0].curve != train(seed=4)[0].curve


def test_it_stops_when_validation_no_longer_improves() -> None:
    result = train(epochs=10, patience=2, learning_rate=1e-12)[0]
    assert (result.best_epoch, result.epochs) == (1, 3)


def test_the_state_of_an_empty_history_is_trained() -> None:
    assert train()[1].default.abs().max() > 0


def test_events_of_weight_zero_are_not_targets() -> None:
    never = SPLIT.train.rows < ITEMS // 2
    _, tower, items = train(epochs=6, weights=np.where(never, 0, 1).astype(np.float32))
    hidden = np.isin(SPLIT.validation.targets(), np.arange(ITEMS // 2))
    learned = validation_ndcg(tower, items, SPLIT.validation.subset(~hidden), None, 6, True)
    assert learned > 0.9 > 0.6 > validation_ndcg(tower, items, SPLIT.validation.subset(hidden), None, 6, True)


class Interruption:
    """Side features that end the training at the n-th call, as a power cut would."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def __call__(self, examples: Examples) -> Float32:
        self.calls -= 1
        if self.calls == 0:
            raise KeyboardInterrupt
        return (examples.positions[:, None] / EVENTS).astype(np.float32)


def test_an_interrupted_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    whole, tower, items = train(side=Interruption(-1))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, side=Interruption(25))
    assert any(tmp_path.iterdir())
    resumed, other_tower, other_items = train(tmp_path, side=Interruption(-1))
    assert resumed.curve == whole.curve
    torch.testing.assert_close(dict(other_tower.state_dict()), dict(tower.state_dict()), rtol=0, atol=0)
    torch.testing.assert_close(other_items.all(), items.all(), rtol=0, atol=0)


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first, _, items = train(tmp_path)
    second, _, same = train(tmp_path)
    assert second == first
    torch.testing.assert_close(same.all(), items.all(), rtol=0, atol=0)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    train(tmp_path, epochs=1)
    with pytest.raises(ConfigError, match=r"learning_rate was 0.02, is 0.01.*Delete it"):
        train(tmp_path, epochs=1, learning_rate=0.01)


def test_a_broken_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(b"no such thing")
    with pytest.raises(DataError, match=r"checkpoint\.safetensors: not a readable checkpoint"):
        train(tmp_path)


def test_seen_items_are_not_ranked_in_validation_when_masked() -> None:
    tower, items = TransformerTower(4, layers=1), ItemTower(ITEMS, 4)
    with torch.no_grad():
        items.embedding.zero_()
        items.embedding[SPLIT.validation.targets()[0]] = 1.0
        tower.normalize.weight.zero_()
        tower.normalize.bias.fill_(1.0)  # every state is all ones, so the first target wins wherever it is allowed
    one = SPLIT.validation.subset(slice(0, 1))
    repeated = replace(one, positions=one.positions + 1, log=_with_repeat(one))
    assert validation_ndcg(tower, items, one, None, 6, True) == 1.0
    assert validation_ndcg(tower, items, repeated, None, 6, False) == 1.0
    assert validation_ndcg(tower, items, repeated, None, 6, True) == 0.0


def _with_repeat(example: Examples) -> InteractionLog:
    """The same log, in which the event after the example's repeats its item."""
    rows = example.log.rows.copy()
    rows[example.events() + 1] = rows[example.events()]
    return replace(example.log, rows=rows)


PARALLEL = """
import sys; sys.path.insert(0, {folder!r})
from test_loop import train
if __name__ == "__main__":
    result, tower, items = train(epochs=6, devices=2)
    print(f"ndcg {{result.ndcg:.3f}}, vectors {{float(items.all().sum()):.6f}}", flush=True)
"""


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    script = tmp_path / "parallel.py"
    script.write_text(PARALLEL.format(folder=str(Path(__file__).parent)))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("ndcg")]
    assert len(lines) == 2
    assert lines[0] == lines[1]
    assert float(lines[0].split()[1].rstrip(",")) > 0.9


def test_a_large_catalogue_is_learned_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortlist.models.items.ROWS_FROM", 10)
    result, _, items = train(epochs=8, negatives=16)
    assert items.by_rows
    assert result.ndcg > 0.5


def test_a_training_by_rows_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortlist.models.items.ROWS_FROM", 10)
    whole, _, items = train(side=Interruption(-1), negatives=16)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, side=Interruption(25), negatives=16)
    resumed, _, other_items = train(tmp_path, side=Interruption(-1), negatives=16)
    assert resumed.curve == whole.curve
    torch.testing.assert_close(other_items.all(), items.all(), rtol=0, atol=0)
