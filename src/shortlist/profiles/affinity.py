"""Exponentially decayed weights of categories, in stored form: each has its own weight and the moment it holds for.

Only what an event touches is decayed and rounded; readers decay the rest. What an event weighs is for `state`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec

CATEGORIES = 64  # kept at most; the weakest goes
_END = b"\xff"
_STATE = struct.Struct("<fI")


class Affinities(msgspec.Struct, frozen=True):
    """`names`: C category names, each ended by 0xFF; `states`: C pairs of weight (f32) and moment in seconds (u32)."""

    names: bytes = b""
    states: bytes = b""

    def __len__(self) -> int:
        return len(self.states) // _STATE.size

    def at(self, second: int, half_life_s: int) -> dict[str, float]:
        """Weight of each category at `second`, but not before its own moment; strongest first."""
        pairs = zip(self.names.split(_END)[:-1], _STATE.iter_unpack(self.states), strict=True)
        weights = {
            name.decode(): _decayed(weight, max(0, second - moment), half_life_s) for name, (weight, moment) in pairs
        }
        return dict(sorted(weights.items(), key=lambda pair: -pair[1]))

    def moved(self, categories: Sequence[bytes], weight: float, second: int, half_life_s: int) -> Affinities:
        """With `weight` added to each of `categories` at `second`, which may be before their last."""
        if not categories or not weight:
            return self
        names = self.names.split(_END)[:-1]
        states = bytearray(self.states)
        for category in categories:
            if category in names:
                at = names.index(category) * _STATE.size
                held, moment = _STATE.unpack_from(states, at)
            else:
                names.append(category)
                at, held, moment = len(states), 0.0, second
                states += bytes(_STATE.size)
            newest = max(second, moment)
            total = _decayed(held, newest - moment, half_life_s) + _decayed(weight, newest - second, half_life_s)
            _STATE.pack_into(states, at, total, newest)
        if len(names) > CATEGORIES:
            return _strongest(names, states, half_life_s)
        return Affinities(b"".join([name + _END for name in names]), bytes(states))


def _decayed(weight: float, age_s: int, half_life_s: int) -> float:
    return weight if age_s == 0 else weight * 2.0 ** (-age_s / half_life_s)


def _strongest(names: list[bytes], states: bytearray, half_life_s: int) -> Affinities:
    """The CATEGORIES of largest magnitude, in their order."""
    pairs = list(_STATE.iter_unpack(states))
    newest = max(moment for _, moment in pairs)
    size = [abs(_decayed(weight, newest - moment, half_life_s)) for weight, moment in pairs]
    kept = sorted(sorted(range(len(names)), key=lambda i: -size[i])[:CATEGORIES])
    return Affinities(b"".join([names[i] + _END for i in kept]), b"".join([_STATE.pack(*pairs[i]) for i in kept]))
