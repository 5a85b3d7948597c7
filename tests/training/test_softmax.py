"""The losses: the chunked softmax equals the plain one, and the sampled one approaches it."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from shortlist.training.softmax import columns_of, draw_items, softmax_loss

T, N, D = 23, 40, 6


def draw(tokens: int = T, n_items: int = N) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(tokens, D, generator=generator, requires_grad=True)
    items = torch.randn(n_items, D, generator=generator, requires_grad=True)
    return states, items, torch.randint(n_items, (tokens,), generator=generator)


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
    loss = softmax_loss(states, items, targets, seen=seen, weights=weights, chunk=chunk)
    torch.testing.assert_close(loss, plain(states, items, targets, hidden, weights))
    torch.testing.assert_close(torch.autograd.grad(loss * 3, [states, items]), expected)


def test_a_target_that_was_seen_keeps_a_finite_loss() -> None:
    states, items, targets = draw()
    loss = softmax_loss(states, items, targets, seen=targets[:, None])
    torch.testing.assert_close(loss, softmax_loss(states, items, targets))


def test_bfloat16_products_stay_near_the_exact_gradient() -> None:
    states, items, targets = draw()
    exact = torch.autograd.grad(softmax_loss(states, items, targets), items)[0]
    narrow = torch.autograd.grad(softmax_loss(states, items, targets, dtype=torch.bfloat16), items)[0]
    assert functional.cosine_similarity(exact.flatten(), narrow.flatten(), dim=0) > 0.999


def sampling_error(corrected: bool) -> float:
    """Relative error of the mean sampled gradient: random batches of 40 tokens, few items being targets."""
    states, items, targets = draw(tokens=200, n_items=400)
    states, targets = states.detach() * 0.3, targets % 9
    popularity = torch.bincount(targets, minlength=400) / 200
    (full,) = torch.autograd.grad(softmax_loss(states, items, targets), items)
    torch.manual_seed(0)
    mean = torch.zeros_like(full)
    for _ in range(500):
        batch = torch.randint(200, (40,))
        drawn, chance = draw_items(targets[batch], 100, popularity)
        columns = columns_of(targets[batch], drawn)
        loss = softmax_loss(states[batch], items[drawn], columns, log_inclusion=chance if corrected else None)
        mean += torch.autograd.grad(loss, items)[0] / 500
    return float((mean - full).norm() / full.norm())


def test_the_correction_brings_the_sampled_gradient_near_the_full_one() -> None:
    assert sampling_error(corrected=True) < 0.12 < sampling_error(corrected=False)


def test_drawn_items_hold_every_target_once() -> None:
    targets = torch.tensor([3, 3, 8])
    drawn, _ = draw_items(targets, 5, torch.full((N,), 1 / N))
    assert set(targets.tolist()) <= set(drawn.tolist())
    assert len(drawn.unique()) == len(drawn)


def test_the_chance_of_being_drawn_is_how_often_items_are_drawn() -> None:
    popularity = torch.tensor([0.5, 0.3, 0.2, 0.0, 0.0, 0.0])
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    counts, chances = torch.zeros(6), torch.zeros(6)
    for _ in range(4000):
        targets = torch.multinomial(popularity, 2, replacement=True, generator=generator)
        drawn, chance = draw_items(targets, 2, popularity)
        counts[drawn] += 1 / 4000
        chances[drawn] = chance.exp()
    torch.testing.assert_close(counts, chances, rtol=0, atol=0.03)


def test_columns_of_rows_not_drawn_and_of_padding_are_minus_one() -> None:
    columns = columns_of(torch.tensor([[5, -1], [9, 2]]), torch.tensor([2, 5]))
    assert columns.tolist() == [[1, -1], [-1, 0]]
