"""The transformer family of user tower: causal LiGR blocks over the history.

Pre-norm attention and SwiGLU, each behind a sigmoid-gated residual (LiGR, arXiv 2502.03417), with a learned bias per
relative position. Attention is written by hand: it exports to a quarter of the ONNX nodes of nn.MultiheadAttention.
It reads gathered item vectors and holds no item table.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

FAR = -1e9


class TransformerTower(nn.Module):
    """User vectors [D] from item vectors of the history, oldest first and right-padded."""

    def __init__(
        self,
        dim: int,
        side_width: int = 0,
        *,
        layers: int = 2,
        heads: int = 2,
        history: int = 50,
        dropout: float = 0.2,
        expansion: int = 2,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim is {dim}; it must be a multiple of heads ({heads})")
        self.history, self.scale = history, math.sqrt(dim)
        self.blocks = nn.ModuleList(LiGRBlock(dim, heads, history, dropout, expansion) for _ in range(layers))
        self.normalize = nn.LayerNorm(dim)
        self.side = nn.Linear(side_width, dim, bias=False) if side_width else None
        self.default = nn.Parameter(torch.zeros(dim))  # the state of an empty history
        self.dropout = nn.Dropout(dropout)

    def forward(self, history: Tensor, lengths: Tensor, side: Tensor) -> Tensor:
        """Vector after the whole history: [B, L, D], Int64[B], [B, S] -> [B, D]. Length 0 gives the learned default."""
        states = self.states(history)
        last = (lengths - 1).clamp_min(0)[:, None, None].expand(-1, 1, states.shape[2])
        state = torch.where(lengths[:, None] > 0, states.gather(1, last)[:, 0], self.default)
        return self.with_side(state, side)

    def forward_all(self, history: Tensor, lengths: Tensor, side: Tensor) -> Tensor:
        """Vector after each position: [B, L, D], Int64[B], [B, L, S] or [B, S] -> [B, L, D]; past `lengths`, noise."""
        return self.with_side(self.states(history), side if side.dim() == 3 else side[:, None])

    def states(self, history: Tensor) -> Tensor:
        x = self.dropout(history * self.scale)
        steps = torch.arange(history.shape[1], device=history.device)
        distance = (steps[:, None] - steps).clamp(0, self.history - 1)
        future = torch.where(steps[:, None] < steps, FAR, 0.0)
        for block in self.blocks:
            x = block(x, distance, future)
        normalized: Tensor = self.normalize(x)
        return normalized

    def with_side(self, states: Tensor, side: Tensor) -> Tensor:
        return states if self.side is None else states + self.side(side)


class LiGRBlock(nn.Module):
    """Causal self-attention and SwiGLU; each branch is scaled by a sigmoid gate of its own normalised input."""

    def __init__(self, dim: int, heads: int, history: int, dropout: float, expansion: int) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.before_attention, self.before_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 2 * expansion * dim), nn.Linear(expansion * dim, dim)
        self.gate_attention, self.gate_mlp = _gate(dim), _gate(dim)
        self.relative = nn.Parameter(torch.zeros(heads, history))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, distance: Tensor, future: Tensor) -> Tensor:
        """x [B, L, D]; distance Int64[L, L] from query to key; future [L, L] is 0 where a query may look."""
        h = self.before_attention(x)
        x = x + self.dropout(self.attend(h, distance, future)) * torch.sigmoid(self.gate_attention(h))
        h = self.before_mlp(x)
        content, gate = self.up(h).chunk(2, dim=-1)
        mixed: Tensor = self.dropout(self.down(functional.silu(gate) * content)) * torch.sigmoid(self.gate_mlp(h))
        return x + mixed

    def attend(self, h: Tensor, distance: Tensor, future: Tensor) -> Tensor:
        batch, length, dim = h.shape
        q, k, v = self.qkv(h).view(batch, length, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(-1, -2) / math.sqrt(dim // self.heads) + self.relative[:, distance] + future
        weights = functional.dropout(torch.softmax(logits, dim=-1), self.rate, self.training)
        mixed: Tensor = self.out((weights @ v).transpose(1, 2).reshape(batch, length, dim))
        return mixed


def _gate(dim: int) -> nn.Linear:
    """A gate that starts half open everywhere."""
    gate = nn.Linear(dim, dim)
    nn.init.zeros_(gate.weight)
    nn.init.zeros_(gate.bias)
    return gate
