"""How long a GPU takes: for the stages of a batch, while it is answered, and for plans that compete, before serving.

Stages are timed by CUDA events, for which nobody waits. What is made of the timings is the business of the cascade and
of `shortlist.serving.rivals`. With a real GPU none of it has run yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from shortlist.devices.plans import PlanScorer, open_plan
from shortlist.kernels.arrays import import_cupy

ROUNDS, REPLAYS = 15, 20

Timer = Callable[[Mapping[str, Path], str], dict[str, list[float]]]
"""time_plans, or what stands in for it."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When a stream comes to a point, or, without an event, when the host did."""

    host: float  # seconds of perf_counter: when it was noted
    event: Any = None
    origin: Moment | None = None  # an earlier one of the same stream, which came to it when it was noted


class EventClock:
    """Moments of one stream on the host's clock.

    A kernel is launched long before it runs, so the host's clock alone would see launches. Events say when the stream
    came to them, as soon as the host has waited for anything after them, which `Gpu.fetch` does once a batch.
    """

    def __init__(self, cupy: Any, stream: Any) -> None:
        self._cuda, self._stream = cupy.cuda, stream
        self._origin: Moment | None = None

    def start(self) -> None:
        """The stream has nothing to do, and will have."""
        self._origin = self._record()

    def stop(self) -> None:
        """The stream has done all; until the next start the host's clock is right."""
        self._origin = None

    def now(self) -> Moment:
        """When all that the stream was given so far is done."""
        return Moment(perf_counter()) if self._origin is None else self._record()

    def seconds(self, start: Moment, end: Moment) -> float:
        """Seconds between two moments; as the host noted them where the stream has not come to them."""
        return max(0.0, self._at(end) - self._at(start))

    def _record(self) -> Moment:
        event = self._cuda.Event()
        event.record(self._stream)
        return Moment(perf_counter(), event, self._origin)

    def _at(self, moment: Moment) -> float:
        if moment.origin is None or not moment.event.done:
            return moment.host
        return moment.origin.host + float(self._cuda.get_elapsed_time(moment.origin.event, moment.event)) / 1e3


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
