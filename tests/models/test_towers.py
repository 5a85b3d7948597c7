"""What both user towers promise: blind to pads, defined for empty histories, side features by position, exportable."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from shortlist.models.decay import DecayTower
from shortlist.models.transformer import TransformerTower
from tests.models.towers import B, D, L, S, decay_tower, history, transformer_tower

Tower = DecayTower | TransformerTower


@pytest.fixture(params=[decay_tower, transformer_tower], ids=["decay", "transformer"])
def tower(request: pytest.FixtureRequest) -> Tower:
    made: Tower = request.param()
    return made


def test_the_vector_is_the_state_after_the_last_event(tower: Tower) -> None:
    lengths, side = torch.tensor([7, 3, 1]), torch.randn(B, S)
    states = tower.forward_all(history(), lengths, side)
    torch.testing.assert_close(tower(history(), lengths, side), states[torch.arange(B), lengths - 1])


def test_more_padding_changes_nothing(tower: Tower) -> None:
    lengths, side = torch.tensor([4, 2, 1]), torch.randn(B, S)
    torch.testing.assert_close(tower(history(), lengths, side), tower(history()[:, :4], lengths, side))


def test_an_empty_history_gives_the_default_moved_by_the_side_features(tower: Tower) -> None:
    nobody = torch.zeros(B, dtype=torch.long)
    vectors = tower(history(), nobody, torch.zeros(B, S))
    torch.testing.assert_close(vectors, tower.default.expand(B, D))
    assert (tower(history(), nobody, torch.ones(B, S)) - vectors).abs().max() > 0.01


def test_side_features_may_differ_by_position(tower: Tower) -> None:
    side, lengths = torch.randn(B, L, S), torch.full((B,), L)
    states = tower.forward_all(history(), lengths, side)
    torch.testing.assert_close(states[:, 2], tower.forward_all(history(), lengths, side[:, 2])[:, 2])


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning", "ignore:.*will not be used:UserWarning")  # torch's own
def test_onnx_runtime_gives_the_same_vectors_for_another_batch_and_length(tower: Tower, tmp_path: Path) -> None:
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
