"""Slates kept in process: the same question of the same bundle and profile gets the same answer without work.

Only full answers are kept, never one that load or a deadline made lighter, that exploration made random, or that
carries a trace. A cache stands before one cascade, which holds one bundle, so a new version starts with an empty one.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shortlist.errors import ShortlistError
from shortlist.types import FULL, Request, Slate

if TYPE_CHECKING:
    from shortlist.stages.assortment import Assortment

Answer = Slate | ShortlistError
Recommend = Callable[[Sequence[Request]], Sequence[Answer]]


class SlateCache:
    """`recommend`, with the slates of the latest requests kept: at most `size`, the longest unasked goes first.

    With an `assortment`, a slate is not given again once one of its items is off, or once anything new is on offer.
    """

    def __init__(self, recommend: Recommend, size: int, assortment: Assortment | None = None) -> None:
        self.size = size
        self._assortment = assortment
        self.asked = self.hits = 0
        self._recommend = recommend
        self._slates: OrderedDict[Hashable, Slate] = OrderedDict()

    def recommend(self, requests: Sequence[Request]) -> Sequence[Answer]:
        """One answer for each request, in order, as the cascade gives it or gave it before."""
        if self.size == 0:
            return self._recommend(requests)
        now_us = time.time_ns() // 1000
        epoch = self._assortment.epoch if self._assortment else 0
        keys = [_key(request, epoch) for request in requests]
        known = {i: slate for i, key in enumerate(keys) if (slate := self._find(requests[i], key, now_us))}
        missing = [i for i in range(len(requests)) if i not in known]
        answers: dict[int, Answer] = dict(known)
        if missing:
            answers.update(zip(missing, self._recommend([requests[i] for i in missing]), strict=True))
        for i in missing:
            self._keep(keys[i], answers[i])
        self.asked += len(requests)
        self.hits += len(known)
        return [answers[i] for i in range(len(requests))]

    def _find(self, request: Request, key: Hashable, now_us: int) -> Slate | None:
        if request.trace or (request.deadline_unix_us is not None and request.deadline_unix_us <= now_us):
            return None  # the cascade explains, or refuses
        slate = self._slates.get(key)
        if slate is not None and self._assortment and not self._assortment.allows(slate.item_ids):
            return None
        if slate is not None:
            self._slates.move_to_end(key)
        return slate

    def _keep(self, key: Hashable, answer: Answer) -> None:
        if not isinstance(answer, Slate) or answer.status != FULL or answer.share < 1 or answer.trace is not None:
            return
        self._slates[key] = answer
        if len(self._slates) > self.size:
            self._slates.popitem(last=False)


def _key(request: Request, epoch: int = 0) -> Hashable:
    """Everything that a full answer depends on."""
    objects = _frozen(request.context), _frozen(request.eligible)
    live = request.live and (request.live.version, request.live.updated_ms)  # a lost profile counts from 1 again
    return request.user_id, request.history, request.exclude, request.k, request.diversity, live, epoch, *objects


def _frozen(value: Any) -> Hashable:
    """JSON as something that can be hashed. Types count: to a schema, 1, 1.0 and true are different values."""
    if isinstance(value, Mapping):
        return frozenset((name, _frozen(part)) for name, part in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    return type(value), value
