"""What is done to each column of the student's input: scaling, rounding, and its weight in the linear part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVELS = 127  # of a symmetric 8-bit scale
LIMITS = {"uint8": (1.0, 255.0), "int8": (-127.0, 127.0)}


@dataclass(frozen=True, eq=False)
class Columns:
    """Constants of the G columns [item (W) | channels (C) | side (S)]; the first D item columns are products u ⊙ v.

    A column x becomes x · multiplier + offset, rounded to the nearest even integer where `dtype` is an integer type,
    then clipped to [low, high]. The linear part is Σ x · weight + bias of the raw columns. Where items are stored as
    int8, the scale of each item column is folded into its multiplier and weight.
    """

    multiplier: Any  # float32 [G], on the device of the other arrays
    offset: Any  # float32 [G]
    weight: Any  # float32 [G]
    bias: float
    low: float
    high: float
    zero: float  # what missing candidates hold
    dtype: str  # uint8, int8, float16 or float32


def make_columns(
    mean: NDArray[np.float32],
    deviation: NDArray[np.float32],
    weight: NDArray[np.float32],
    bias: float,
    clip: float,
    dtype: str = "uint8",
    item_scale: NDArray[np.float32] | None = None,
) -> Columns:
    """Columns for an input standardised by `mean` and `deviation` [G] and clipped to ±`clip` deviations.

    Integers resolve clip / 127 deviations a step; uint8 has its zero at 128. `weight` [G] and `bias` are those of a
    linear layer on the standardised input. `item_scale` [W] dequantises int8 item columns.
    """
    step = clip / 127 if dtype in LIMITS else 1.0
    zero = 128.0 if dtype == "uint8" else 0.0
    low, high = LIMITS.get(dtype, (-clip, clip))
    scale = np.ones(len(mean))
    if item_scale is not None:
        scale[: len(item_scale)] = item_scale
    middle, spread, slope = (np.asarray(part, np.float64) for part in (mean, deviation, weight))
    return Columns(
        multiplier=(scale / (spread * step)).astype(np.float32),
        offset=(zero - middle / (spread * step)).astype(np.float32),
        weight=(scale * slope / spread).astype(np.float32),
        bias=float(np.float32(bias - (slope * middle / spread).sum())),
        low=low,
        high=high,
        zero=zero,
        dtype=dtype,
    )


def retyped(columns: Columns, dtype: str, step: float) -> Columns:
    """`columns` of a uint8 input whose integers are `step` deviations apart, for a graph that takes `dtype`.

    int8 only moves the zero point; float16 and float32 hold deviations, clipped as before but not rounded.
    """
    size = 1.0 if dtype == "int8" else step
    return replace(
        columns,
        multiplier=columns.multiplier * np.float32(size),
        offset=((columns.offset.astype(np.float64) - columns.zero) * size).astype(np.float32),
        low=-LEVELS * size,
        high=LEVELS * size,
        zero=0.0,
        dtype=dtype,
    )
