"""Ids of a large catalogue move only where a step touched them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from shortlist.models import items as models_items
from shortlist.models.items import ItemTower
from shortlist.training.optimizers import RowAdagrad, build_optimizers


def step(table: nn.Parameter, optimizer: RowAdagrad, rows: list[int], slope: float = 1.0) -> None:
    optimizer.zero_grad()
    (slope * nn.functional.embedding(torch.tensor(rows), table, sparse=True).sum()).backward()
    optimizer.step()


def test_rows_without_a_gradient_stay() -> None:
    table = nn.Parameter(torch.ones(5, 3))
    step(table, RowAdagrad([table], lr=0.1), [0, 3])
    torch.testing.assert_close(table[[1, 2, 4]], torch.ones(3, 3))


def test_the_first_step_of_a_row_has_the_length_of_the_rate_whatever_its_gradient() -> None:
    table = nn.Parameter(torch.zeros(2, 3))
    optimizer = RowAdagrad([table], lr=0.1)
    step(table, optimizer, [0], 1e-5)
    step(table, optimizer, [1], 1e3)
    torch.testing.assert_close(table.detach(), torch.full((2, 3), -0.1))


def test_the_steps_of_a_row_shrink() -> None:
    table = nn.Parameter(torch.zeros(1, 2))
    optimizer = RowAdagrad([table], lr=1.0)
    for _ in range(4):
        step(table, optimizer, [0])
    torch.testing.assert_close(table.detach(), torch.full((1, 2), -sum(k**-0.5 for k in (1.0, 2.0, 3.0, 4.0))))


def test_a_small_catalogue_is_left_to_adamw() -> None:
    items = ItemTower(6, 4)
    assert [type(optimizer) for optimizer in build_optimizers(items, items, 0.1, 0.0)] == [AdamW]


def test_each_weight_of_a_large_catalogue_has_one_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models_items, "ROWS_FROM", 5)
    items = ItemTower(6, 4, torch.ones(6, 3))
    adam, rows = build_optimizers(items, items, 0.1, 0.0)
    held = [[p for group in o.param_groups for p in group["params"]] for o in (adam, rows)]
    assert held[1] == [items.embedding]
    assert [id(p) for p in held[0]] == [id(p) for name, p in items.named_parameters() if name != "embedding"]
