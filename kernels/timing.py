"""Timing of rivals on a machine that others use too: interleaved in one run, reported as medians.

Only ratios of cases that ran in the same call mean something; absolute times tell of the machine and the hour.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from statistics import median

Cases = Mapping[str, Callable[[], object]]
SLICE = 2e-3  # seconds that one measurement should last, against the clock's own cost


def interleaved(cases: Cases, rounds: int = 30, seed: int = 0) -> dict[str, float]:
    """Median seconds per call of each case, over `rounds` rounds in which every case runs, in random order.

    A case is called once beforehand, and several times per round when it is faster than 2 ms.
    """
    for call in cases.values():
        call()
    repeats = {name: max(1, round(SLICE / _seconds(call, 1))) for name, call in cases.items()}
    order, found = list(cases), {name: list[float]() for name in cases}
    shuffle = random.Random(seed).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            found[name].append(_seconds(cases[name], repeats[name]))
    return {name: median(times) for name, times in found.items()}


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats
