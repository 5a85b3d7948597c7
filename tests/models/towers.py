"""Small user towers with no weight at its neutral start, and a history to ask them with."""

from typing import TypeVar

import torch
from torch import nn

from shortlist.models.decay import DecayTower
from shortlist.models.transformer import TransformerTower

B, L, D, S = 3, 7, 8, 2
Module = TypeVar("Module", bound=nn.Module)


def decay_tower() -> DecayTower:
    torch.manual_seed(0)
    return roused(DecayTower(D, S, decays=2, dropout=0.3))


def transformer_tower() -> TransformerTower:
    torch.manual_seed(0)
    return roused(TransformerTower(D, S, layers=2, heads=2, history=10, dropout=0.1))


def roused(module: Module) -> Module:
    """The module in eval mode, each weight moved a little: no branch adds nothing or passes all."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return module.eval()


def history() -> torch.Tensor:
    """Vectors of items [B, L, D]."""
    return torch.randn(B, L, D, generator=torch.Generator().manual_seed(1))
