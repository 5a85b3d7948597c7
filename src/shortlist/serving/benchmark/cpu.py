"""CPU time of other processes, as Linux counts it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import psutil


def cpu_seconds(roots: Iterable[int]) -> float:
    """User and system seconds that the processes and all that they started have spent so far, to 10 ms each."""
    return sum(_tree_seconds(psutil.Process(root)) for root in roots)


def _tree_seconds(root: psutil.Process) -> float:
    """What has ended meanwhile counts with the process that waited for it."""
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            spent = process.cpu_times()
            total += spent.user + spent.system + spent.children_user + spent.children_system
    return total
