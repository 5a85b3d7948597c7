"""Next-item loss over a catalogue: softmax cross-entropy in chunks, over all items or over a sampled part of them.

The gradient is computed in the forward pass and nothing of size tokens x items is ever kept, which halves the time and
the memory of an epoch. It knows vectors and columns only; `training.objective` decides what they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 512
NEVER = -1e9


def softmax_loss(
    states: Tensor,
    items: Tensor,
    targets: Tensor,
    *,
    seen: Tensor | None = None,
    weights: Tensor | None = None,
    log_inclusion: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    chunk: int = CHUNK,
) -> Tensor:
    """Weighted mean cross-entropy of `targets` Int64[T] under softmax(states [T, D] · items [N, D]ᵀ).

    `seen` Int64[T, K], padded with -1, names rows left out of each token's softmax (a target never is); `weights`
    Float32[T] weigh tokens. Where `items` are a sample of the catalogue, `log_inclusion` Float32[N] is the log of the
    chance that each was drawn: the logQ correction (Yi et al., RecSys 2019). `dtype` is that of the large products.
    """
    if weights is None:
        weights = torch.ones(len(targets), device=states.device)
    weights = weights / weights.sum()
    loss: Tensor = _ChunkedSoftmax.apply(states, items, targets, seen, weights, log_inclusion, dtype, chunk)
    return loss


def draw_items(targets: Tensor, size: int, popularity: Tensor) -> tuple[Tensor, Tensor]:
    """The items of a sampled softmax: every one of `targets` Int64[T], and `size` drawn uniformly from the catalogue.

    `popularity` Float32[N] is each item's share of the training events. Returns distinct rows Int64[K], ascending, and
    the log of the chance Float32[K] that each is among those drawn.
    """
    uniform = torch.randint(len(popularity), (size,), device=targets.device)
    rows = torch.unique(torch.cat([targets, uniform]))
    missed = len(targets) * torch.log1p(-popularity[rows].clamp_max(1 - 1e-6))
    missed = missed + size * torch.log1p(torch.tensor(-1.0 / max(len(popularity), 2)))
    return rows, torch.log(-torch.expm1(missed))


def columns_of(rows: Tensor, drawn: Tensor) -> Tensor:
    """Where each of `rows` Int64[...] lies in `drawn` Int64[K], ascending; -1 for padding and for those not drawn."""
    place = torch.searchsorted(drawn, rows).clamp_max(len(drawn) - 1)
    return torch.where(drawn[place] == rows, place, -1)


class _ChunkedSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        items: Tensor,
        targets: Tensor,
        seen: Tensor | None,
        weights: Tensor,
        log_inclusion: Tensor | None,
        dtype: torch.dtype,
        chunk: int,
    ) -> Tensor:
        narrow_states, narrow_items = states.to(dtype), items.to(dtype)
        transposed = narrow_items.T.contiguous()
        grad_states, grad_columns = torch.empty_like(states), torch.zeros_like(items.T).contiguous()
        loss = states.new_zeros(())
        buffer = states.new_empty(min(chunk, len(targets)), len(items))
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            logits = buffer[: len(targets[part])]
            logits.copy_(narrow_states[part] @ transposed)
            _adjust(logits, targets[part], None if seen is None else seen[part], log_inclusion)
            probabilities = torch.softmax(logits, 1, out=logits)
            loss += _subtract_target(probabilities, targets[part], weights[part])
            error = probabilities.mul_(weights[part, None]).to(dtype)  # d loss / d logits, [chunk, N]
            grad_states[part] = error @ narrow_items
            grad_columns += narrow_states[part].T @ error  # [D, N]: adding to its transpose is slow
        ctx.save_for_backward(grad_states, grad_columns.T.contiguous())
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        grad_states, grad_items = ctx.saved_tensors
        return grad_states * gradients[0], grad_items * gradients[0], None, None, None, None, None, None


def _adjust(logits: Tensor, targets: Tensor, seen: Tensor | None, log_inclusion: Tensor | None) -> None:
    """Correct sampled logits and hide seen rows, in place; the targets keep their own logits."""
    kept = logits.gather(1, targets[:, None])
    if log_inclusion is not None:
        logits -= log_inclusion
    if seen is not None:
        logits.scatter_(1, torch.where(seen >= 0, seen, targets[:, None]), NEVER)
    logits.scatter_(1, targets[:, None], kept)


def _subtract_target(probabilities: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted negative log-likelihood; turns `probabilities` into its gradient (before weights) in place."""
    row = torch.arange(len(targets), device=targets.device)
    likelihood = probabilities[row, targets].clamp_min(1e-20).log()
    probabilities[row, targets] -= 1.0
    return -(likelihood * weights).sum()
