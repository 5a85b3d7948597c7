"""What the values of a request may be, and the error that says so. Encoders of columns and item predicates ask here.

A caller chooses these values, so everything has a bound: also what of a refused one is shown. Which value a field takes
is its encoder's business, `shortlist.data.columns`.
"""

from __future__ import annotations

import reprlib
from typing import Any

from shortlist.errors import RequestError

LARGEST = 1e15  # number that a request may give
TEXT_LIMIT, LIST_LIMIT = 1000, 100  # longest text and list that a request may give
NAME_LIMIT = 80  # of a field, in an error
STRING = f"a string of at most {TEXT_LIMIT} characters"


def refuse(field: str, value: Any, allowed: str) -> RequestError:
    """The error of a request's field."""
    huge = isinstance(value, int) and abs(value) >= LARGEST
    shown = "an integer of many digits" if huge else reprlib.repr(value)
    name = field if len(field) <= NAME_LIMIT else f"{field[: NAME_LIMIT - 1]}…"
    return RequestError(f"{name} = {shown} is invalid; allowed: {allowed}")


def is_text(value: Any) -> bool:
    """Whether it is a string, and no longer than a text may be."""
    return isinstance(value, str) and len(value) <= TEXT_LIMIT


def is_integer(value: Any) -> bool:
    """Whether it is an integer of bounded size; a truth value is none."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
