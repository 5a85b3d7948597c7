"""The average of weights: it follows, soon forgets the start, and swaps in and out."""

import pytest
import torch
from torch import nn

from shortlist.training.average import WeightAverage


def constant(value: float) -> nn.Linear:
    module = nn.Linear(2, 1, bias=False)
    nn.init.constant_(module.weight, value)
    return module


def test_it_forgets_where_it_started() -> None:
    average = WeightAverage(constant(100.0), 0.9)
    module = constant(1.0)
    for _ in range(60):
        average.update(module)
    assert average.weights["weight"].max() == pytest.approx(1.0, abs=0.5)


def test_swapping_in_lasts_as_long_as_the_context() -> None:
    module = constant(3.0)
    average = WeightAverage(module, 0.9)
    nn.init.constant_(module.weight, 5.0)
    with average.swapped_in(module):
        torch.testing.assert_close(module.weight.data, torch.full((1, 2), 3.0))
    torch.testing.assert_close(module.weight.data, torch.full((1, 2), 5.0))
