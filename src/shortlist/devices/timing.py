"""How long plans take on this GPU: the runner's captured buckets, replayed in turn with those they compete with.

What an answer is made of the timings is the business of `shortlist.serving.rivals`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from shortlist.devices.plans import PlanScorer, open_plan
from shortlist.kernels.arrays import import_cupy

ROUNDS, REPLAYS = 15, 20

Timer = Callable[[Mapping[str, Path], str], dict[str, list[float]]]
"""time_plans, or what stands in for it."""


def time_plans(rivals: Mapping[str, Path], model: str) -> dict[str, list[float]]:
    """Milliseconds of one run of the plan `model` in each folder, for each of its profiles in their order.

    Wall time of `REPLAYS` runs and one synchronisation; the median of `ROUNDS`, in which the rivals take turns, so
    that what the GPU's clock does meets all of them. The memory is given back. Raises BundleError for a plan that
    cannot be run.
    """
    cupy = import_cupy()
    stream = cupy.cuda.Stream(non_blocking=True)
    stream.use()
    scorers = {name: open_plan(folder, model, cupy, stream) for name, folder in rivals.items()}
    counts = {len(scorer.runs) for scorer in scorers.values()}
    assert len(counts) == 1, "rivals are built for the same profiles"
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for profile in range(counts.pop()):
        rounds = [{name: _once(scorer, profile, stream) for name, scorer in scorers.items()} for _ in range(ROUNDS + 1)]
        for name in rivals:
            times[name].append(1e3 * median(found[name] for found in rounds[1:]))  # the first warms up
    scorers.clear()
    cupy.get_default_memory_pool().free_all_blocks()
    return times


def _once(scorer: PlanScorer, profile: int, stream: Any) -> float:
    """Seconds of a run."""
    run, wait = scorer.runs[profile], stream.synchronize
    wait()
    start = perf_counter()
    for _ in range(REPLAYS):
        run.launch(stream)
    wait()
    return (perf_counter() - start) / REPLAYS
