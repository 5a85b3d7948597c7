"""The last guard between one request and all others of its batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shortlist.errors import ServerError, ShortlistError
from shortlist.types import Request, Slate

Answer = Slate | ShortlistError


def answer_each(
    recommend: Callable[[Sequence[Request]], Sequence[Answer]], requests: Sequence[Request]
) -> Sequence[Answer]:
    """One answer for each request. What fails unforeseen costs only the request that caused it: a ServerError, whose
    cause it is.
    """
    if not requests:
        return []
    try:
        return recommend(requests)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other requests deserve their answers
        if len(requests) == 1:
            failure = ServerError(f"internal error ({type(error).__name__}); the server's log tells more")
            failure.__cause__ = error
            return [failure]
        return [answer_each(recommend, [request])[0] for request in requests]
