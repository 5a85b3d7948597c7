"""An exponential moving average of a module's weights, which ranks better than the last step's weights."""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Keeps the average beside the module; early updates count more, so that the start is soon forgotten.

    Weights named in `without` keep their last value.
    """

    def __init__(self, module: nn.Module, decay: float, without: Container[str] = ()) -> None:
        self.decay, self.updates = decay, 0
        self.weights = {name: value for name, value in snapshot(module).items() if name not in without}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module's present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = module.state_dict()
        for name, average in self.weights.items():
            average.lerp_(current[name], 1 - decay)

    @contextmanager
    def swapped_in(self, module: nn.Module) -> Iterator[None]:
        """Within the context the module holds the average; afterwards its own weights again."""
        own = snapshot(module)
        module.load_state_dict({**own, **self.weights})
        try:
            yield
        finally:
            module.load_state_dict(own)


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
