"""An unforeseen failure costs the request that caused it, and no other."""

from collections.abc import Sequence

import numpy as np

from shortlist.errors import ServerError
from shortlist.serving.guard import answer_each
from shortlist.types import Request, Slate

SLATE = Slate((b"a",), np.ones(1, np.float32), np.ones(1, np.float32), "full")


def _recommend(requests: Sequence[Request]) -> list[Slate]:
    if any(request.user_id == b"unlucky" for request in requests):
        raise MemoryError("no more")
    return [SLATE] * len(requests)


def test_only_the_culprit_fails() -> None:
    requests = [Request(b"a"), Request(b"unlucky"), Request(b"b")]
    answers = answer_each(_recommend, requests)
    assert [type(answer) for answer in answers] == [Slate, ServerError, Slate]
    assert "internal error (MemoryError)" in str(answers[1])
    assert str(answers[1].__cause__) == "no more"


def test_without_trouble_the_batch_is_answered_at_once() -> None:
    assert answer_each(_recommend, [Request(), Request()]) == [SLATE, SLATE]
    assert answer_each(_recommend, []) == []
