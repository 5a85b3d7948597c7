"""The losses: the chunked softmax equals the plain one, and the sampled one approaches it."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from shortlist.training.softmax import full_softmax, sample_negatives, sampled_softmax

T, N, D = 23, 40, 6


def draw(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(T, D, generator=generator, requires_grad=True)
    items = torch.randn(N, D, generator=generator, requires_grad=True)
    return states, items, torch.randint(N, (T,), generator=generator)


def plain(states: Tensor, items: Tensor, targets: Tensor, hidden: Tensor | None, weights: Tensor) -> Tensor:
    logits = states @ items.T
    if hidden is not None:
        logits = logits.masked_fill(hidden, -torch.inf)
    return (functional.cross_entropy(logits, targets, reduction="none") * weights).sum() / weights.sum()


@pytest.mark.parametrize("chunk", [1, 8, 23, 100])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "seen-masked"])
def test_loss_and_gradients_equal_those_of_the_plain_softmax(chunk: int, masked: bool) -> None:
    states, items, targets = draw()
    weights = torch.rand(T, generator=torch.Generator().manual_seed(1))
    seen = torch.randint(-1, N, (T, 5), generator=torch.Generator().manual_seed(2)) if masked else None
    hidden = None
    if seen is not None:
        counts = torch.zeros(T, N + 1).scatter_add_(1, seen + 1, torch.ones(T, 5))
        hidden = (counts[:, 1:] > 0) & (torch.arange(N) != targets[:, None])
    expected = torch.autograd.grad(plain(states, items, targets, hidden, weights) * 3, [states, items])
    loss = full_softmax(states, items, targets, seen=seen, weights=weights, chunk=chunk)
    torch.testing.assert_close(loss, plain(states, items, targets, hidden, weights))
    torch.testing.assert_close(torch.autograd.grad(loss * 3, [states, items]), expected)


def test_a_target_that_was_seen_keeps_a_finite_loss() -> None:
    states, items, targets = draw()
    loss = full_softmax(states, items, targets, seen=targets[:, None])
    torch.testing.assert_close(loss, full_softmax(states, items, targets))


def test_bfloat16_products_stay_near_the_exact_gradient() -> None:
    states, items, targets = draw()
    exact = torch.autograd.grad(full_softmax(states, items, targets), items)[0]
    narrow = torch.autograd.grad(full_softmax(states, items, targets, dtype=torch.bfloat16), items)[0]
    assert functional.cosine_similarity(exact.flatten(), narrow.flatten(), dim=0) > 0.999


def test_sampled_gradient_is_near_the_full_one_on_average() -> None:
    states, items, targets = draw()
    popularity = torch.bincount(targets, minlength=N) / T
    torch.manual_seed(0)
    total = torch.zeros(N, D)
    for _ in range(60):
        rows, expected = sample_negatives(targets, N, 512, popularity)
        loss = sampled_softmax(states, items[targets], items[rows], targets, rows, expected)
        total += torch.autograd.grad(loss, items)[0] / 60
    full = torch.autograd.grad(full_softmax(states, items, targets), items)[0]
    assert functional.cosine_similarity(full.flatten(), total.flatten(), dim=0) > 0.99


def test_sampled_negatives_that_were_seen_or_are_the_target_do_not_count() -> None:
    states, items, targets = draw()
    states, targets, seen = states[:1], targets[:1], torch.tensor([[7]])
    negatives, no_correction = torch.cat([targets, seen[0]]), torch.zeros(2)
    loss = sampled_softmax(states, items[targets], items[negatives], targets, negatives, no_correction, seen=seen)
    assert loss.item() == pytest.approx(0.0, abs=1e-6)


def test_expected_counts_match_how_often_rows_are_drawn() -> None:
    targets = torch.tensor([0] * 9 + [1])
    popularity = torch.tensor([0.9, 0.1, 0.0, 0.0])
    torch.manual_seed(0)
    rows, expected = sample_negatives(targets, 4, 40_000, popularity)
    counts = torch.bincount(rows, minlength=4).float()
    wanted = torch.zeros(4).scatter_(0, rows, expected.exp())
    torch.testing.assert_close(counts, wanted, rtol=0.03, atol=0)
