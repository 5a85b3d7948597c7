"""What each stage did to one batch: how long it took, what it let through. For traces, metrics and measured costs.

`shortlist.cascade` passes it from stage to stage, and decides who is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from shortlist.deadlines import Effort
from shortlist.devices import Device
from shortlist.types import Candidates, Int32


@dataclass
class Funnel:
    """One batch of `requests`, which gets one `effort`."""

    device: Device
    effort: Effort
    requests: int
    stages: list[tuple[str, float, int, int]] = field(default_factory=list)  # name, seconds, items in, items out
    running: list[tuple[str, Any, Any, int, int]] = field(default_factory=list)  # the same, with moments of the device
    survivors: dict[str, Int32] = field(default_factory=dict)  # stage -> rows [B, N] best first

    def of_part(self, requests: int) -> Funnel:
        """That of some of the batch's requests, from here on."""
        return Funnel(self.device, self.effort, requests, list(self.stages))

    @contextmanager
    def stage(self, name: str, items_in: int) -> Iterator[None]:
        """Time one stage by the device's clock, which says only later what it took."""
        start = self.device.now()
        yield
        items_out = self.survivors[name].size if name in self.survivors else items_in
        self.running.append((name, start, self.device.now(), items_in, items_out))

    def note(self, stage: str, candidates: Candidates) -> Candidates:
        """The candidates, whose rows are those that `stage` let through."""
        self.survivors[stage] = candidates.rows
        return candidates

    def done(self) -> list[tuple[str, float, int, int]]:
        """The stages that ran since the last call, now that the device is through with them."""
        told = [(name, self.device.seconds(start, end), i, o) for name, start, end, i, o in self.running]
        self.stages.extend(told)
        self.running.clear()
        return told

    def trace(self, version: str, items: tuple[bytes, ...], rows: Int32, member: int) -> dict[str, Any]:
        """Time and counts per stage (of the whole batch), and each item's rank (from 1) at every stage that chose it.

        An item that exploration shows has no rank at `diversify`.
        """
        ranks = {name: {row: i + 1 for i, row in enumerate(s[member].tolist())} for name, s in self.survivors.items()}
        return {
            "version": version,
            "effort": {"status": self.effort.status, "share": self.effort.share},
            "stages": [{"stage": n, "ms": 1e3 * s, "in": i, "out": o} for n, s, i, o in self.stages],
            "items": [
                {
                    "id": item.decode(),
                    "ranks": {name: of[row] for name, of in ranks.items() if row in of},
                    "slot": slot + 1,
                }
                for slot, (item, row) in enumerate(zip(items, rows.tolist(), strict=True))
            ],
        }
