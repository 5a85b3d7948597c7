"""Next-item losses over a catalogue: the full softmax in chunks, and a sampled one for catalogues too large for it.

The chunked loss computes its gradient in the forward pass and never keeps tokens x items, which halves time and memory
of an epoch. It knows vectors and rows only; `training.loop` decides which loss trains a tower.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CHUNK = 512
NEVER = -1e9


def full_softmax(
    states: Tensor,
    items: Tensor,
    targets: Tensor,
    *,
    seen: Tensor | None = None,
    weights: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    chunk: int = CHUNK,
) -> Tensor:
    """Weighted mean cross-entropy of `targets` Int64[T] under softmax(states [T, D] · items [N, D]ᵀ).

    `seen` Int64[T, K], padded with -1, names rows left out of each token's softmax (a target is never left out);
    `weights` Float32[T] weighs tokens; `dtype` is that of the large products, bfloat16 where the processor has it.
    """
    if weights is None:
        weights = torch.ones(len(targets), device=states.device)
    loss: Tensor = _ChunkedSoftmax.apply(states, items, targets, seen, weights / weights.sum(), dtype, chunk)
    return loss


class _ChunkedSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        items: Tensor,
        targets: Tensor,
        seen: Tensor | None,
        weights: Tensor,
        dtype: torch.dtype,
        chunk: int,
    ) -> Tensor:
        narrow_states, narrow_items = states.to(dtype), items.to(dtype)
        transposed = narrow_items.T.contiguous()
        grad_states, grad_items = torch.empty_like(states), torch.zeros_like(items)
        loss = states.new_zeros(())
        buffer = states.new_empty(min(chunk, len(targets)), len(items))
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            logits = buffer[: len(targets[part])]
            logits.copy_(narrow_states[part] @ transposed)
            _mask_seen(logits, None if seen is None else seen[part], targets[part])
            probabilities = torch.softmax(logits, 1, out=logits)
            loss += _subtract_target(probabilities, targets[part], weights[part])
            error = probabilities.mul_(weights[part, None]).to(dtype)  # d loss / d logits, [chunk, N]
            grad_states[part] = error @ narrow_items
            grad_items += (narrow_states[part].T @ error).T
        ctx.save_for_backward(grad_states, grad_items)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        grad_states, grad_items = ctx.saved_tensors
        return grad_states * gradients[0], grad_items * gradients[0], None, None, None, None, None


def _mask_seen(logits: Tensor, seen: Tensor | None, targets: Tensor) -> None:
    """Set the logits of `seen` rows to nearly minus infinity in place, except those of the targets."""
    if seen is None:
        return
    kept = logits.gather(1, targets[:, None])
    logits.scatter_(1, torch.where(seen >= 0, seen, targets[:, None]), NEVER)
    logits.scatter_(1, targets[:, None], kept)


def _subtract_target(probabilities: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted negative log-likelihood; turns `probabilities` into its gradient (before weights) in place."""
    row = torch.arange(len(targets), device=targets.device)
    likelihood = probabilities[row, targets].clamp_min(1e-20).log()
    probabilities[row, targets] -= 1.0
    return -(likelihood * weights).sum()


def sample_negatives(targets: Tensor, n_items: int, size: int, popularity: Tensor) -> tuple[Tensor, Tensor]:
    """Draw `size` rows to share as negatives, half from the batch's `targets`, half uniformly.

    `popularity` Float32[N] is each item's share of the training events. Returns rows Int64[size] and the log of each
    row's expected count among them, Float32[size]: the logQ correction of Yi et al. (RecSys 2019).
    """
    from_batch = size // 2
    batch = targets[torch.randint(len(targets), (from_batch,), device=targets.device)]
    uniform = torch.randint(n_items, (size - from_batch,), device=targets.device)
    rows = torch.cat([batch, uniform])
    expected = from_batch * popularity[rows] + (size - from_batch) / n_items
    return rows, expected.log()


def sampled_softmax(
    states: Tensor,
    target_vectors: Tensor,
    negative_vectors: Tensor,
    targets: Tensor,
    negatives: Tensor,
    log_expected: Tensor,
    *,
    seen: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Weighted mean cross-entropy of each target against shared negatives, corrected for how often they are drawn.

    `states`, `target_vectors` [T, D]; `negative_vectors` [K, D]; `targets` Int64[T]; `negatives` Int64[K];
    `log_expected` Float32[K] from `sample_negatives`; `seen`, `weights` as in `full_softmax`. A negative that is the
    target, or was seen, does not count.
    """
    positive = (states * target_vectors).sum(1, keepdim=True)
    negative = states @ negative_vectors.T - log_expected
    negative = negative.masked_fill(negatives == targets[:, None], NEVER)
    if seen is not None:
        for column in seen.T:  # [T, K] a position at a time: never tokens x negatives x history
            negative = negative.masked_fill(negatives == column[:, None], NEVER)
    losses = functional.cross_entropy(torch.cat([positive, negative], 1), torch.zeros_like(targets), reduction="none")
    return losses.mean() if weights is None else (losses * weights).sum() / weights.sum()
