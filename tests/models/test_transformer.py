"""The transformer tower: causal, blind to pads, defined for empty histories, exportable."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from shortlist.models.transformer import TransformerTower

B, L, D, S = 3, 7, 8, 2


@pytest.fixture
def tower() -> TransformerTower:
    torch.manual_seed(0)
    made = TransformerTower(D, S, layers=2, heads=2, history=10, dropout=0.1).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)  # leaves no branch at its neutral start
    return made


def history() -> torch.Tensor:
    return torch.randn(B, L, D, generator=torch.Generator().manual_seed(1))


def test_the_vector_is_the_state_after_the_last_event(tower: TransformerTower) -> None:
    lengths, side = torch.tensor([7, 3, 1]), torch.randn(B, S)
    states = tower.forward_all(history(), lengths, side)
    torch.testing.assert_close(tower(history(), lengths, side), states[torch.arange(B), lengths - 1])


def test_a_state_does_not_depend_on_later_events(tower: TransformerTower) -> None:
    changed = history()
    changed[:, 4:] = 9.0
    side, lengths = torch.zeros(B, S), torch.full((B,), L)
    states, others = (tower.forward_all(h, lengths, side) for h in (history(), changed))
    torch.testing.assert_close(states[:, :4], others[:, :4])
    assert (states[:, 4:] - others[:, 4:]).abs().max() > 0.1


def test_more_padding_changes_nothing(tower: TransformerTower) -> None:
    lengths, side = torch.tensor([4, 2, 1]), torch.randn(B, S)
    torch.testing.assert_close(tower(history(), lengths, side), tower(history()[:, :4], lengths, side))


def test_order_matters(tower: TransformerTower) -> None:
    lengths, side = torch.full((B,), L), torch.zeros(B, S)
    assert (tower(history(), lengths, side) - tower(history().flip(1), lengths, side)).abs().max() > 0.01


def test_an_empty_history_gives_the_default_moved_by_the_side_features(tower: TransformerTower) -> None:
    nobody = torch.zeros(B, dtype=torch.long)
    vectors = tower(history(), nobody, torch.zeros(B, S))
    torch.testing.assert_close(vectors, tower.default.expand(B, D))
    assert (tower(history(), nobody, torch.ones(B, S)) - vectors).abs().max() > 0.01


def test_side_features_may_differ_by_position(tower: TransformerTower) -> None:
    side, lengths = torch.randn(B, L, S), torch.full((B,), L)
    states = tower.forward_all(history(), lengths, side)
    torch.testing.assert_close(states[:, 2], tower.forward_all(history(), lengths, side[:, 2])[:, 2])


def test_histories_longer_than_the_bias_table_are_read(tower: TransformerTower) -> None:
    long = torch.randn(1, 25, D)
    assert tower(long, torch.tensor([25]), torch.zeros(1, S)).isfinite().all()


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="dim is 9; it must be a multiple of heads"):
        TransformerTower(9, heads=2)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch.export's own
def test_onnx_runtime_gives_the_same_vectors_for_another_batch_and_length(
    tower: TransformerTower, tmp_path: Path
) -> None:
    names = ["history", "lengths", "side"]
    free = torch.export.Dim.DYNAMIC
    shapes = ({0: free, 1: free}, {0: free}, {0: free})
    arguments = (history(), torch.tensor([7, 3, 0]), torch.randn(B, S))
    path = tmp_path / "user.onnx"
    torch.onnx.export(tower, arguments, path, dynamo=True, input_names=names, dynamic_shapes=shapes, verbose=False)
    others = (torch.randn(5, 4, D), torch.tensor([4, 0, 1, 2, 3]), torch.randn(5, S))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (vectors,) = session.run(None, {name: value.numpy() for name, value in zip(names, others, strict=True)})
    np.testing.assert_allclose(vectors, tower(*others).detach().numpy(), atol=1e-5)
