"""The ranker scores each candidate by itself, starts as the retriever, and serves any history length."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shortlist.models.ranker import Ranker

BATCH, HISTORY, CANDIDATES, DIM, FEATURES, SIDE = 4, 9, 20, 16, 5, 3


@pytest.fixture
def ranker() -> Ranker:
    """A ranker whose every part matters."""
    torch.manual_seed(0)
    ranker = Ranker(50, DIM, FEATURES, SIDE, heads=2, hidden=8, dropout=0.3)
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return ranker.eval()


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "history": torch.randn(BATCH, HISTORY, DIM, generator=generator),
        "lengths": torch.tensor([0, 1, 5, 9]),
        "candidates": torch.randn(BATCH, CANDIDATES, DIM, generator=generator),
        "features": torch.randn(BATCH, CANDIDATES, FEATURES, generator=generator),
        "side": torch.randn(BATCH, SIDE, generator=generator),
    }


def test_permuting_candidates_permutes_their_scores(ranker: Ranker, inputs: dict[str, Tensor]) -> None:
    order = torch.randperm(CANDIDATES, generator=torch.Generator().manual_seed(2))
    moved = {**inputs, "candidates": inputs["candidates"][:, order], "features": inputs["features"][:, order]}
    torch.testing.assert_close(ranker(**moved), ranker(**inputs)[:, order], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_scoring_candidates_in_chunks_changes_nothing(ranker: Ranker, inputs: dict[str, Tensor], chunk: int) -> None:
    parts = [
        ranker(**{**inputs, "candidates": inputs["candidates"][:, at], "features": inputs["features"][:, at]})
        for at in (slice(start, start + chunk) for start in range(0, CANDIDATES, chunk))
    ]
    torch.testing.assert_close(torch.cat(parts, dim=1), ranker(**inputs), atol=1e-6, rtol=1e-6)


def test_other_requests_of_the_batch_change_nothing(ranker: Ranker, inputs: dict[str, Tensor]) -> None:
    alone = ranker(**{name: value[2:3] for name, value in inputs.items()})
    torch.testing.assert_close(alone, ranker(**inputs)[2:3], atol=1e-6, rtol=1e-6)


def test_padding_of_the_history_is_never_read(ranker: Ranker, inputs: dict[str, Tensor]) -> None:
    padding = torch.arange(HISTORY)[None, :, None] >= inputs["lengths"][:, None, None]
    garbage = torch.where(padding, torch.full_like(inputs["history"], 1e4), inputs["history"])
    torch.testing.assert_close(ranker(**{**inputs, "history": garbage}), ranker(**inputs), atol=0, rtol=0)


def test_more_padding_changes_nothing(ranker: Ranker, inputs: dict[str, Tensor]) -> None:
    wider = torch.cat([inputs["history"], torch.zeros(BATCH, 6, DIM)], dim=1)
    torch.testing.assert_close(ranker(**{**inputs, "history": wider}), ranker(**inputs), atol=1e-6, rtol=1e-6)


def test_events_before_the_window_are_never_read(inputs: dict[str, Tensor]) -> None:
    torch.manual_seed(0)
    ranker = Ranker(50, DIM, FEATURES, SIDE, window=4).eval()
    nn.init.normal_(ranker.output.weight)
    recent = {**inputs, "history": inputs["history"][3:, 5:], "lengths": torch.tensor([4])}
    recent |= {name: inputs[name][3:] for name in ("candidates", "features", "side")}
    torch.testing.assert_close(ranker(**recent), ranker(**inputs)[3:], atol=1e-6, rtol=1e-6)


def test_an_empty_history_gives_finite_scores(ranker: Ranker, inputs: dict[str, Tensor]) -> None:
    assert torch.isfinite(ranker(**{**inputs, "lengths": torch.zeros(BATCH, dtype=torch.int64)})).all()


def test_recent_events_and_their_order_matter(ranker: Ranker, inputs: dict[str, Tensor]) -> None:
    reversed_history = {**inputs, "history": inputs["history"].flip(1)}
    assert (ranker(**reversed_history)[3] - ranker(**inputs)[3]).abs().max() > 1e-3


def test_a_new_ranker_keeps_the_order_of_retrieval(inputs: dict[str, Tensor]) -> None:
    retrieval = inputs["features"][..., -2:].sum(-1)
    fresh = Ranker(50, DIM, FEATURES, SIDE).eval()
    torch.testing.assert_close(fresh(**inputs).argsort(dim=1), retrieval.argsort(dim=1))


def test_weight_zero_keeps_the_order_of_retrieval_whatever_was_learned(
    ranker: Ranker, inputs: dict[str, Tensor]
) -> None:
    retrieval = inputs["features"][..., -2:].sum(-1)
    ranker.weight.zero_()
    torch.testing.assert_close(ranker(**inputs).argsort(dim=1), retrieval.argsort(dim=1))


def test_calibration_keeps_the_order_and_gives_probabilities(ranker: Ranker, inputs: dict[str, Tensor]) -> None:
    ranker.platt.copy_(torch.tensor([0.3, -2.0]))
    logits = ranker(**inputs)
    probabilities = ranker.probability(logits)
    assert ((probabilities > 0) & (probabilities < 1)).all()
    torch.testing.assert_close(probabilities.argsort(dim=1), logits.argsort(dim=1))


def test_a_saved_ranker_scores_as_before(ranker: Ranker, inputs: dict[str, Tensor], tmp_path: Path) -> None:
    ranker.table.normal_()
    ranker.save(tmp_path)
    loaded = Ranker.load(tmp_path)
    torch.testing.assert_close(loaded(**inputs), ranker(**inputs), atol=0, rtol=0)
    np.testing.assert_array_equal(loaded.item_embeddings(), ranker.item_embeddings())


def test_item_embeddings_cover_the_catalogue(ranker: Ranker) -> None:
    assert ranker.item_embeddings().shape == (50, DIM)
    assert ranker.item_embeddings().dtype == np.float32


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="multiple of heads"):
        Ranker(50, 10, FEATURES, SIDE, heads=4)
