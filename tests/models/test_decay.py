"""The decay tower: pools weigh recent events more, ignore pads, are defined for empty histories, and export."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from shortlist.models.decay import DecayTower

B, L, D, S = 3, 7, 8, 2


@pytest.fixture
def tower() -> DecayTower:
    torch.manual_seed(0)
    made = DecayTower(D, S, decays=2, dropout=0.3).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)  # leaves no branch at its neutral start
    return made


def history() -> torch.Tensor:
    return torch.randn(B, L, D, generator=torch.Generator().manual_seed(1))


def test_the_vector_is_the_state_after_the_last_event(tower: DecayTower) -> None:
    lengths, side = torch.tensor([7, 3, 1]), torch.randn(B, S)
    states = tower.forward_all(history(), lengths, side)
    torch.testing.assert_close(tower(history(), lengths, side), states[torch.arange(B), lengths - 1])


def test_more_padding_changes_nothing(tower: DecayTower) -> None:
    lengths, side = torch.tensor([4, 2, 1]), torch.randn(B, S)
    torch.testing.assert_close(tower(history(), lengths, side), tower(history()[:, :4], lengths, side))


def test_an_empty_history_gives_the_default_moved_by_the_side_features(tower: DecayTower) -> None:
    nobody = torch.zeros(B, dtype=torch.long)
    vectors = tower(history(), nobody, torch.zeros(B, S))
    torch.testing.assert_close(vectors, tower.default.expand(B, D))
    assert (tower(history(), nobody, torch.ones(B, S)) - vectors).abs().max() > 0.01


def test_pools_sum_to_one_and_recent_events_weigh_more(tower: DecayTower) -> None:
    weights = tower.weights(torch.tensor([3, 2, 1, 0, -1]))  # [pools, L]: four events, oldest first, and a pad
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    assert (weights[:, 4] == 0).all()
    assert (weights[:2, 1:4] > weights[:2, :3]).all()
    torch.testing.assert_close(weights[2, :4], torch.full((4,), 0.25))


def test_side_features_may_differ_by_position(tower: DecayTower) -> None:
    side, lengths = torch.randn(B, L, S), torch.full((B,), L)
    states = tower.forward_all(history(), lengths, side)
    torch.testing.assert_close(states[:, 2], tower.forward_all(history(), lengths, side[:, 2])[:, 2])


def test_no_decay_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="decays is 0; at least 1"):
        DecayTower(D, decays=0)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning", "ignore:.*will not be used:UserWarning")  # torch's own
def test_onnx_runtime_gives_the_same_vectors_for_another_batch_and_length(tower: DecayTower, tmp_path: Path) -> None:
    names = ["history", "lengths", "side"]
    batch, length = torch.export.Dim("batch", min=1, max=1024), torch.export.Dim("length", min=1, max=1000)
    shapes = ({0: batch, 1: length}, {0: batch}, {0: batch})
    arguments = (history(), torch.tensor([7, 3, 0]), torch.randn(B, S))
    path = tmp_path / "user.onnx"
    torch.onnx.export(tower, arguments, path, dynamo=True, input_names=names, dynamic_shapes=shapes, verbose=False)
    others = (torch.randn(5, 4, D), torch.tensor([4, 0, 1, 2, 3]), torch.randn(5, S))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (vectors,) = session.run(None, {name: value.numpy() for name, value in zip(names, others, strict=True)})
    np.testing.assert_allclose(vectors, tower(*others).detach().numpy(), atol=1e-5)
