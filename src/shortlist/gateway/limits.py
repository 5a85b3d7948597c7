"""Rate limits: a token bucket for each caller, kept for as many callers as memory is set aside for."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

MOST = 20_000  # callers remembered; who was longest away is forgotten, which fills his bucket


class Buckets:
    """One bucket a caller: it holds `burst` tokens, `rate` a second flow in, and a request takes one."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()  # -> tokens, at that moment

    def take(self, caller: tuple[str, str], now: float) -> float:
        """Take a token at the moment `now` (s). 0, or how many seconds to wait for the next token."""
        tokens, before = self._buckets.pop(caller, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - before) * self._rate)
        short = tokens < 1
        self._buckets[caller] = (tokens if short else tokens - 1, now)
        if len(self._buckets) > MOST:
            self._buckets.popitem(last=False)
        return (1 - tokens) / self._rate if short else 0.0

    def __len__(self) -> int:
        return len(self._buckets)


def network(address: str) -> str:
    """By what an address is limited: itself, or of IPv6 the /64 that one household has."""
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(found.ipv4_mapped or ipaddress.IPv6Network((found, 64), strict=False))
