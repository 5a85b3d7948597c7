"""The kernels' jobs as one writes them with whole arrays, in CuPy and in torch: what `bench_gpu` compares with.

Each is batched over the requests and keeps what it needs twice; all candidates must be present. `xp` is CuPy, or NumPy
in tests; its versions do without cuBLAS, which CuPy's package does not bring. Sums run in another order than in the
kernels, so the last bits differ.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SMALLEST = 1e-6  # the residual below which a candidate lies in the span of the picks


def mmr_arrays(xp: Any, items: Any, rows: Any, relevance: Any, trade_off: Any, k: int) -> Any:
    """items [M, D], rows and relevance [B, N], trade_off [B] -> picks [B, K]."""
    vectors, every = items[rows].astype(xp.float32), xp.arange(len(rows))
    worth, novelty = trade_off[:, None] * relevance, 1 - trade_off[:, None]
    closest, taken = xp.zeros_like(relevance), xp.zeros_like(relevance)
    picks = xp.empty((len(rows), k), xp.int32)
    for slot in range(k):
        best = (worth - novelty * closest + taken).argmax(axis=1)
        picks[:, slot], taken[every, best] = best, -xp.inf
        similarity = (vectors * vectors[every, best][:, None]).sum(axis=2)
        closest = xp.maximum(closest, similarity) if slot else similarity
    return picks


def dpp_arrays(xp: Any, items: Any, rows: Any, relevance: Any, trade_off: Any, k: int) -> Any:
    """As `mmr_arrays`; the factor's rows are kept as [B, K, N]."""
    vectors, every = items[rows].astype(xp.float32), xp.arange(len(rows))
    worth, novelty = trade_off[:, None] * relevance, 1 - trade_off[:, None]
    residual, taken = (vectors * vectors).sum(axis=2), xp.zeros_like(relevance)
    factor = xp.zeros((len(rows), k, rows.shape[1]), xp.float32)
    picks = xp.empty((len(rows), k), xp.int32)
    for slot in range(k):
        best = (worth + novelty * xp.log(xp.maximum(residual, SMALLEST)) + taken).argmax(axis=1)
        picks[:, slot], taken[every, best] = best, -xp.inf
        similarity = (vectors * vectors[every, best][:, None]).sum(axis=2)
        explained = (factor.swapaxes(1, 2)[every, best][:, :, None] * factor).sum(axis=1)
        row = (similarity - explained) / xp.sqrt(xp.maximum(residual[every, best], SMALLEST))[:, None]
        factor[:, slot] = row
        residual = residual - row * row
    return picks


def fuse_arrays(xp: Any, items: Any, rows: Any, users: Any, channels: Any, side: Any, columns: Any) -> tuple[Any, Any]:
    """items [M, W], rows [B, N], users [B, D], channels [B, N, C], side [B, S] -> features [B, N, G], linear [B, N]."""
    (batch, count), width = rows.shape, items.shape[1]
    factor = xp.concatenate([users, xp.ones((batch, width - users.shape[1]), xp.float32)], axis=1)
    item = items[rows].astype(xp.float32) * factor[:, None, :]
    sides = xp.broadcast_to(side[:, None, :], (batch, count, side.shape[1]))
    raw = xp.concatenate([item, channels, sides], axis=2)
    scaled = xp.clip(xp.rint(raw * columns.multiplier + columns.offset), columns.low, columns.high)
    return scaled.astype(columns.dtype), (raw * columns.weight).sum(axis=2) + columns.bias


def top_k_arrays(xp: Any, values: Any, k: int) -> Any:
    """values [B, N] -> positions [B, K]."""
    return xp.argsort(-values, axis=1)[:, :k].astype(xp.int32)


def mmr_torch(items: Tensor, rows: Tensor, relevance: Tensor, trade_off: Tensor, k: int) -> Tensor:
    """As `mmr_arrays`."""
    vectors, every = items[rows.long()].float(), torch.arange(len(rows), device=rows.device)
    worth, novelty = trade_off[:, None] * relevance, 1 - trade_off[:, None]
    closest, taken = torch.zeros_like(relevance), torch.zeros_like(relevance)
    picks = torch.empty((len(rows), k), dtype=torch.int32, device=rows.device)
    for slot in range(k):
        best = (worth - novelty * closest + taken).argmax(1)
        picks[:, slot], taken[every, best] = best.int(), -torch.inf
        similarity = torch.bmm(vectors, vectors[every, best][:, :, None])[:, :, 0]
        closest = torch.maximum(closest, similarity) if slot else similarity
    return picks


def dpp_torch(items: Tensor, rows: Tensor, relevance: Tensor, trade_off: Tensor, k: int) -> Tensor:
    """As `dpp_arrays`."""
    vectors, every = items[rows.long()].float(), torch.arange(len(rows), device=rows.device)
    worth, novelty = trade_off[:, None] * relevance, 1 - trade_off[:, None]
    residual, taken = (vectors * vectors).sum(2), torch.zeros_like(relevance)
    factor = vectors.new_zeros((len(rows), k, rows.shape[1]))
    picks = torch.empty((len(rows), k), dtype=torch.int32, device=rows.device)
    for slot in range(k):
        best = (worth + novelty * residual.clamp(min=SMALLEST).log() + taken).argmax(1)
        picks[:, slot], taken[every, best] = best.int(), -torch.inf
        similarity = torch.bmm(vectors, vectors[every, best][:, :, None])[:, :, 0]
        explained = torch.bmm(factor.transpose(1, 2)[every, best][:, None], factor)[:, 0]
        row = (similarity - explained) / residual[every, best].clamp(min=SMALLEST).sqrt()[:, None]
        factor[:, slot] = row
        residual = residual - row * row
    return picks


def fuse_torch(
    columns: Any, items: Tensor, rows: Tensor, users: Tensor, channels: Tensor, side: Tensor, constants: Tensor
) -> tuple[Tensor, Tensor]:
    """As `fuse_arrays`; constants [3, G] are the multipliers, offsets and weights of `columns`."""
    (batch, count), width = rows.shape, items.shape[1]
    multiplier, offset, weight = constants
    factor = torch.cat([users, users.new_ones((batch, width - users.shape[1]))], 1)
    item = items[rows.long()].float() * factor[:, None, :]
    raw = torch.cat([item, channels, side[:, None, :].expand(batch, count, side.shape[1])], 2)
    scaled = torch.addcmul(offset, raw, multiplier).round().clamp(columns.low, columns.high)
    return scaled.to(getattr(torch, columns.dtype)), raw @ weight + columns.bias


def top_k_torch(values: Tensor, k: int) -> Tensor:
    """As `top_k_arrays`."""
    return values.topk(k).indices.int()
