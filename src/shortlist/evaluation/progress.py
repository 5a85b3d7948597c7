"""A progress bar on standard error, so that JSON on standard output stays clean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Step = TypeVar("Step")


def progress(steps: Sequence[Step], title: str, show: bool) -> Iterator[Step]:
    """Yield each step, with a bar that vanishes at the end when `show`."""
    yield from track(steps, description=title, disable=not show, transient=True, console=Console(stderr=True))
