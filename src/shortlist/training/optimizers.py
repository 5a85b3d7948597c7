"""Optimizers of a module that holds an item tower: AdamW, and for a large catalogue's ids one that touches few rows.

Dense AdamW reads and writes every row of the table at every step, however few items took part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from shortlist.models.items import ItemTower

ROW_RATE = 4.0  # learning rate of rows, relative to the others': Adagrad's steps shrink as a row gathers gradients


class RowAdagrad(Optimizer):
    """Adagrad for sparse gradients, with one sum of squares a row.

    Duchi et al., JMLR 2011; by row as in DLRM, arXiv 1906.00091.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move the rows that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad.coalesce(), group["lr"])

    def _move(self, parameter: Tensor, gradient: Tensor, rate: float) -> None:
        state = self.state[parameter]
        if not state:
            state["squares"] = torch.zeros(len(parameter), device=parameter.device)
        rows, values = gradient.indices()[0], gradient.values()
        squares = state["squares"][rows] + values.square().mean(dim=1)
        state["squares"][rows] = squares
        parameter.index_add_(0, rows, values * (-rate / squares.sqrt().clamp_min(1e-12)).unsqueeze(1))


def build_optimizers(
    module: nn.Module, items: ItemTower, learning_rate: float, weight_decay: float, **adam: Any
) -> list[Optimizer]:
    """AdamW for `module`, which holds `items`; and after it, where their gradient is sparse, one for their ids.

    Weight decay is for matrices; none for gains, biases and item embeddings.
    """
    embedding = items.embedding
    matrices = [p for p in module.parameters() if p.ndim >= 2 and p is not embedding]
    others = [p for p in module.parameters() if p.ndim < 2 or (p is embedding and not items.by_rows)]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    dense = AdamW(groups, lr=learning_rate, **adam)
    return [dense, RowAdagrad([embedding], learning_rate * ROW_RATE)] if items.by_rows else [dense]
