"""Equal requests get the same slate without work; nothing that was made lighter, traced or refused is kept."""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from shortlist.errors import RequestError, ShortlistError
from shortlist.slates import SlateCache
from shortlist.types import Request, Slate

ASKED = Request(user_id=b"u", history=(b"a", b"b"), exclude=(b"c",), k=3, diversity=0.5, context={"hour": 3})


class Kitchen:
    """A cascade that counts: each slate is a new one."""

    def __init__(self, **slate: object) -> None:
        self.asked: list[Request] = []
        self.slate = slate

    def recommend(self, requests: Sequence[Request]) -> list[Slate | ShortlistError]:
        self.asked += requests
        ones = np.ones(1, np.float32)
        return [Slate((b"%d" % len(self.asked),), ones, ones, **{"status": "full", **self.slate}) for _ in requests]  # type: ignore[arg-type]


def _asked(kitchen: Kitchen, *batches: list[Request], size: int = 10) -> int:
    """How many requests of `batches` reach the cascade."""
    cache = SlateCache(kitchen.recommend, size)
    for batch in batches:
        assert len(cache.recommend(batch)) == len(batch)
    return len(kitchen.asked)


def test_an_equal_request_gets_the_same_slate() -> None:
    cache = SlateCache(Kitchen().recommend, 10)
    (first,), (second,) = cache.recommend([ASKED]), cache.recommend([replace(ASKED, context={"hour": 3})])
    assert second is first
    assert (cache.asked, cache.hits) == (2, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"user_id": b"v"},
        {"history": (b"b", b"a")},
        {"history": ()},
        {"exclude": ()},
        {"k": 4},
        {"k": None},
        {"diversity": 0.4},
        {"context": {}},
        {"context": {"hour": 3.0}},
        {"context": {"hour": "3"}},
        {"context": {"hour": 3, "device": "tv"}},
        {"eligible": {"in_stock": True}},
    ],
    ids=str,
)
def test_every_option_counts(change: dict[str, object]) -> None:
    assert _asked(Kitchen(), [ASKED], [replace(ASKED, **change)]) == 2  # type: ignore[arg-type]


def test_a_batch_asks_only_for_what_is_missing() -> None:
    others = [replace(ASKED, user_id=b"%d" % i) for i in range(3)]
    assert _asked(Kitchen(), [ASKED], [others[0], ASKED, *others[1:]], [ASKED, *others]) == 4


def test_answers_keep_their_order() -> None:
    cache = SlateCache(Kitchen().recommend, 10)
    requests = [replace(ASKED, user_id=b"%d" % i) for i in range(4)]
    first = [cache.recommend([r])[0] for r in requests]
    assert list(cache.recommend(requests[::-1])) == first[::-1]


@pytest.mark.parametrize("slate", [{"share": 0.5}, {"status": "no_rank"}, {"status": "fallback"}], ids=str)
def test_lighter_answers_are_not_kept(slate: dict[str, object]) -> None:
    assert _asked(Kitchen(**slate), [ASKED], [ASKED]) == 2


def test_a_trace_is_always_made_anew() -> None:
    assert _asked(Kitchen(trace={}), [ASKED], [replace(ASKED, trace=True)], [replace(ASKED, trace=True)]) == 3


def test_a_refusal_is_not_kept() -> None:
    cache = SlateCache(lambda requests: [RequestError("k = 0")] * len(requests), 10)
    cache.recommend([ASKED])
    cache.recommend([ASKED])
    assert cache.hits == 0


def test_a_deadline_changes_no_key_but_still_counts() -> None:
    soon, past = (replace(ASKED, deadline_unix_us=time.time_ns() // 1000 + ms * 1000) for ms in (60_000, -1))
    assert _asked(Kitchen(), [ASKED], [soon]) == 1
    assert _asked(Kitchen(), [ASKED], [past]) == 2


def test_the_longest_unasked_goes_first() -> None:
    a, b, c = (replace(ASKED, user_id=name) for name in (b"a", b"b", b"c"))
    assert _asked(Kitchen(), [a], [b], [a], [c], [a], [b], size=2) == 4


def test_a_size_of_zero_keeps_nothing() -> None:
    assert _asked(Kitchen(), [ASKED], [ASKED], size=0) == 2
