"""How many users there are at any moment of a load test. Who they are is said by `profiles`."""

from __future__ import annotations

from collections.abc import Callable


def steady(_: float, most: int) -> int:
    """As many from the first second to the last."""
    return most


def spike(done: float, most: int) -> int:
    """An eighth of them; all, in the middle fifth of the time; an eighth again."""
    return most if 0.4 <= done < 0.6 else max(1, most // 8)


def ramp(done: float, most: int) -> int:
    """One more after the other, in ten steps, until more users bring no more answers a second."""
    return max(1, round(most * (int(10 * done) + 1) / 10))


def soak(_: float, most: int) -> int:
    """A quarter of them for as long as it takes to see what grows: give it hours."""
    return max(1, most // 4)


WORKLOADS: dict[str, Callable[[float, int], int]] = {f.__name__: f for f in (steady, spike, ramp, soak)}
"""Users at a share `done` (0 to 1) of the duration, of at most `most`."""
