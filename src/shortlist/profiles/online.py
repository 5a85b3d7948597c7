"""One step of an online-updated user vector: gradient descent on the retriever's loss, never far from the tower's.

The loss is that of training, the cross-entropy of the item that was taken to against sampled others, for a vector that
is the tower's plus a drift. Pure functions of NumPy arrays, a few µs an event. Whether a drift ranks better than none
is for `shortlist.evaluation.online` to say.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from shortlist.types import Float32, Int32

LEARNING_RATE, NEGATIVES, BOUND = 0.03, 16, 0.3  # of what is served: chosen by `shortlist evaluate --online`


@njit(nogil=True, no_cfunc_wrapper=True)
def step(
    drift: Float32,
    tower: Float32,
    items: Float32,
    target: int,
    negatives: Int32,
    learning_rate: np.float32,
    bound: np.float32,
) -> Float32:
    """The drift [D] after the person of vector `tower` [D] + `drift` [D] took to row `target` of `items` [N, D].

    `negatives` [K] are rows drawn uniformly, -1 where one is to be left out; each stands for N / K items, as in a
    softmax over all (the logQ correction of Yi et al., RecSys 2019). The drift stays within `bound` times the length
    of `tower`.
    """
    vector = tower + drift
    standing_for = np.log(np.float32(len(items) / max(1, len(negatives))))
    logits = np.full(len(negatives) + 1, -np.inf, np.float32)
    logits[0] = np.dot(items[target], vector)
    for k in range(len(negatives)):
        if negatives[k] >= 0:
            logits[k + 1] = np.dot(items[negatives[k]], vector) + standing_for
    chances = np.exp(logits - logits.max())
    chances /= chances.sum()
    moved = drift + learning_rate * (np.float32(1) - chances[0]) * items[target]
    for k in range(len(negatives)):
        if negatives[k] >= 0:
            moved -= learning_rate * chances[k + 1] * items[negatives[k]]
    within: Float32 = bounded(moved, tower, bound)
    return within


@njit(nogil=True, no_cfunc_wrapper=True)
def bounded(drift: Float32, tower: Float32, bound: np.float32) -> Float32:
    """The drift [D], shortened to at most `bound` times the length of `tower` [D]."""
    length, most = np.sqrt((drift * drift).sum()), bound * np.sqrt((tower * tower).sum())
    return drift if length <= most else drift * np.float32(most / length)


@njit(nogil=True, no_cfunc_wrapper=True)
def replay(
    towers: Float32,
    users: Int32,
    items: Float32,
    targets: Int32,
    negatives: Int32,
    learning_rate: np.float32,
    bound: np.float32,
) -> Float32:
    """The drift [E, D] before each of E events, one person's events together and oldest first.

    `towers` [E, D] are the tower's vectors before each event, `users` [E] whose it is, `targets` [E] the rows taken to,
    `negatives` [E, K] as in `step`. Everybody begins without a drift.
    """
    before = np.zeros_like(towers)
    for e in range(1, len(users)):
        if users[e] == users[e - 1]:
            last = e - 1
            moved = step(before[last], towers[last], items, targets[last], negatives[last], learning_rate, bound)
            before[e] = bounded(moved, towers[e], bound)
    return before


def moved(towers: Float32, drift: Float32) -> Float32:
    """The vectors that serve: `towers` [B, D] with `drift` [B, D], at most BOUND times as long, added."""
    longest = BOUND * np.linalg.norm(towers, axis=1, keepdims=True)
    length = np.linalg.norm(drift, axis=1, keepdims=True)
    return np.asarray(towers + drift * np.minimum(1, longest / np.maximum(length, 1e-12)), np.float32)
