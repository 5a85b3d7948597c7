"""Refusals: one exception for all of them, and the JSON that a caller gets.

A refusal says what was wrong with the field, its value and what is allowed; what went wrong inside stays inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from shortlist.errors import DeadlineError, RequestError, ServerError, ShortlistError

_STATUS: tuple[tuple[type[ShortlistError], int], ...] = ((RequestError, 400), (DeadlineError, 504), (ServerError, 503))


class HttpError(Exception):
    """A request that is not answered as asked: HTTP status, and why."""

    def __init__(self, status: int, message: str, field: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.field = field
        self.headers = dict(headers or {})


def wrong(field: str, value: object, allowed: str) -> HttpError:
    """A field of the request that is not as it should be."""
    shown = repr(value)
    return HttpError(400, f"{field} = {shown if len(shown) <= 80 else shown[:79] + '…'}: {allowed}", field)


def busy(message: str) -> HttpError:
    """Something that the gateway needs is away, or has too much to do: worth another try in a second."""
    return HttpError(503, message, headers={"retry-after": "1"})


def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`content` as JSON."""
    return Response(msgspec.json.encode(content), status, headers, "application/json")


def translated(error: ShortlistError) -> HttpError:
    """The refusal that one of our own errors means."""
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 503)
    field = str(error).partition(" = ")[0] if status == 400 and " = " in str(error)[:50] else ""
    return HttpError(status, str(error), field, {"retry-after": "1"} if status == 503 else None)


async def on_problem(_: Request, error: Exception) -> Response:
    """Exception handler of `HttpError`."""
    assert isinstance(error, HttpError)
    return refusal(error)


async def on_http(_: Request, error: Exception) -> Response:
    """Exception handler of the framework's own refusals: no such path, no such method."""
    assert isinstance(error, HTTPException)
    return refusal(HttpError(error.status_code, str(error.detail), headers=error.headers))


def refusal(problem: HttpError) -> Response:
    """What the caller is told."""
    named = {"field": problem.field} if problem.field else {}
    return answer({"error": {"message": str(problem), **named}}, problem.status, problem.headers)


async def on_anything(_: Request, __: Exception) -> Response:
    """Exception handler of what nobody foresaw: the server tells its log, not the caller."""
    return refusal(HttpError(500, "internal error; the gateway's log says more"))
