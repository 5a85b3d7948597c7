"""The student's input in plain NumPy, one candidate at a time: slow, obvious, and what the fast versions must equal."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.kernels.fuse_features.columns import LIMITS, Columns
from shortlist.kernels.numerics import lane_dot


def fuse_features_reference(
    items: NDArray[Any],
    rows: NDArray[np.int32],
    users: NDArray[np.float32],
    channels: NDArray[np.float32],
    side: NDArray[np.float32],
    columns: Columns,
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Same contract as `shortlist.kernels.fuse_features`, for valid input."""
    (batch, count), width, dim = rows.shape, items.shape[1], users.shape[1]
    first_side = width + channels.shape[2]
    features = np.full((batch, count, first_side + side.shape[1]), columns.zero, columns.dtype)
    linear = np.full((batch, count), -np.inf, np.float32)
    multiplier, offset, weight = columns.multiplier, columns.offset, columns.weight
    for b in range(batch):
        factor = np.concatenate([users[b], np.ones(width - dim, np.float32)])
        base = np.float32(columns.bias)
        for s in range(side.shape[1]):
            base += side[b, s] * weight[first_side + s]
        for n in np.flatnonzero(rows[b] >= 0):
            item = items[rows[b, n]].astype(np.float32)
            scaled = [
                item * (factor * multiplier[:width]) + offset[:width],
                channels[b, n] * multiplier[width:first_side] + offset[width:first_side],
                side[b] * multiplier[first_side:] + offset[first_side:],
            ]
            features[b, n] = encode(np.concatenate(scaled), columns)
            rest = base
            for c in range(channels.shape[2]):
                rest += channels[b, n, c] * weight[width + c]
            linear[b, n] = lane_dot(item, factor * weight[:width]) + rest
    return features, linear


def encode(scaled: NDArray[np.float32], columns: Columns) -> NDArray[Any]:
    """Round where the type is an integer, and clip; NaN becomes the lower limit."""
    rounded = np.rint(scaled) if columns.dtype in LIMITS else scaled
    above = np.where(rounded > np.float32(columns.low), rounded, np.float32(columns.low))
    return np.minimum(above, np.float32(columns.high)).astype(columns.dtype)
