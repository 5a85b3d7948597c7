"""The decay family of user tower: a few decayed means of the history, mixed by one linear map.

Each pool weighs an event by decay ** age with a decay of its own that is learned; one more pool is the plain mean. It
reads gathered item vectors and holds no item table; side features and the history's length move the vector, and are
what is left of it for somebody without history.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SLOWEST, FASTEST = 0.95, 0.6  # decays at the start of training
MIXING_NOISE = 0.01


class DecayTower(nn.Module):
    """User vectors [D] from item vectors of the history, oldest first and right-padded."""

    def __init__(self, dim: int, side_width: int = 0, *, decays: int = 2, dropout: float = 0.2) -> None:
        """`decays` pools have a learned decay; the plain mean comes on top."""
        super().__init__()
        if decays < 1:
            raise ValueError(f"decays is {decays}; at least 1 is needed")
        pools = decays + 1
        self.logits = nn.Parameter(torch.logit(torch.linspace(FASTEST, SLOWEST, decays)))
        self.mix = nn.Linear(pools * dim, dim)
        self.side = nn.Linear(side_width, dim, bias=False) if side_width else None
        self.length = nn.Parameter(torch.zeros(dim))
        self.default = nn.Parameter(torch.zeros(dim))  # the state of an empty history
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():  # starts as the average of the pools
            average = torch.eye(dim).repeat(1, pools) / pools
            self.mix.weight.copy_(average + MIXING_NOISE * torch.randn_like(average))
            self.mix.bias.zero_()

    def forward(self, history: Tensor, lengths: Tensor, side: Tensor) -> Tensor:
        """Vector after the whole history: [B, L, D], Int64[B], [B, S] -> [B, D]. Length 0 gives the learned default."""
        steps = torch.arange(history.shape[1], device=history.device)
        ages = lengths[:, None] - 1 - steps  # [B, L]
        pooled = (self.weights(ages) @ history).flatten(1)  # [B, pools * D]
        state = torch.where(lengths[:, None] > 0, self.mixed(pooled, lengths), self.default)
        return self.with_side(state, side)

    def forward_all(self, history: Tensor, lengths: Tensor, side: Tensor) -> Tensor:
        """Vector after each position: [B, L, D], Int64[B], [B, L, S] or [B, S] -> [B, L, D]; past `lengths`, noise."""
        steps = torch.arange(history.shape[1], device=history.device)
        weights = self.weights(steps[:, None] - steps)  # [L, pools, L]
        pooled = torch.einsum("tpl,bld->btpd", weights, history).flatten(2)
        return self.with_side(self.mixed(pooled, steps + 1), side if side.dim() == 3 else side[:, None])

    def weights(self, ages: Tensor) -> Tensor:
        """Weight of each event in each pool: ages Int64[..., L] -> [..., pools, L], 0 at negative ages, sum 1."""
        real = (ages >= 0).unsqueeze(-2).float()
        decays = torch.cat([torch.sigmoid(self.logits), self.logits.new_ones(1)])
        raw = real * torch.exp(ages.clamp_min(0).unsqueeze(-2) * torch.log(decays)[:, None])
        return raw / raw.sum(-1, keepdim=True).clamp_min(1e-9)

    def mixed(self, pooled: Tensor, lengths: Tensor) -> Tensor:
        """Pools [..., pools * D] after `lengths` [...] events -> [..., D]."""
        state: Tensor = self.mix(self.dropout(pooled))
        return state + torch.log1p(lengths.float()).unsqueeze(-1) * self.length

    def with_side(self, states: Tensor, side: Tensor) -> Tensor:
        return states if self.side is None else states + self.side(self.dropout(side))
