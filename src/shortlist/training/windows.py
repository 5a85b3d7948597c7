"""Training windows over an interaction log, and batches of them with few pads.

A window is a run of one user's events; every event in it is predicted from those before it. Nothing of size
users x length is ever held: batches are gathered from the log when their turn comes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shortlist.data.log import InteractionLog
from shortlist.types import Bool, Int64


@dataclass(frozen=True, eq=False)
class Windows:
    """W runs of events. A user's next window starts at the last event of the one before, which is only read there."""

    starts: Int64  # [W] index of the first event in the log's columns
    lengths: Int64  # [W] events, at most size + 1
    first: Bool  # [W] whether the window opens its user's sequence, so that its first event is predicted too


def cut_windows(log: InteractionLog, size: int) -> Windows:
    """Windows in which at most `size` events are read. Users without events have none."""
    lengths = log.lengths()
    counts = np.where(lengths > 0, np.maximum(1, -(-(lengths - 1) // size)), 0)
    owner = np.repeat(np.arange(log.n_users), counts)
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = log.offsets[owner] + nth * size
    stops = np.minimum(starts + size + 1, log.offsets[owner + 1])
    return Windows(starts, stops - starts, nth == 0)


def plan_batches(lengths: Int64, batch_tokens: int, generator: np.random.Generator) -> list[Int64]:
    """Indices of windows, batched by similar length so that count x longest stays within `batch_tokens`; shuffled."""
    order = np.argsort(lengths + generator.random(len(lengths)), kind="stable")
    batches, begin = [], 0
    for place, index in enumerate(order):
        if place > begin and (place - begin + 1) * int(lengths[index]) > batch_tokens:
            batches.append(order[begin:place])
            begin = place
    if begin < len(order):
        batches.append(order[begin:])
    return [batches[i] for i in generator.permutation(len(batches))]


def gather_events(windows: Windows, index: Int64) -> tuple[Int64, Bool]:
    """Event indices of the chosen windows, Int64[B, L + 1], and where they are real; pads repeat the first event."""
    lengths = windows.lengths[index]
    steps = np.arange(lengths.max())
    real = steps < lengths[:, None]
    return windows.starts[index][:, None] + np.where(real, steps, 0), real
