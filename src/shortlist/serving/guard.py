"""The last guard between one request and all others of its batch."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence

from shortlist.errors import ServerError, ShortlistError
from shortlist.types import Request, Slate

Answer = Slate | ShortlistError


def answer_each(
    recommend: Callable[[Sequence[Request]], Sequence[Answer]], requests: Sequence[Request], log: Callable[[str], None]
) -> Sequence[Answer]:
    """One answer for each request. What fails unforeseen is logged, and costs only the request that caused it."""
    if not requests:
        return []
    try:
        return recommend(requests)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other requests deserve their answers
        if len(requests) == 1:
            log("a request failed: " + "".join(traceback.format_exception(error)))
            return [ServerError(f"internal error ({type(error).__name__}); the server's log tells more")]
        return [answer_each(recommend, [request], log)[0] for request in requests]
