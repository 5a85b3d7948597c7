"""A request's body, no larger, no slower and no deeper than allowed."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from shortlist.gateway.refusals import HttpError
from shortlist.gateway.settings import BODY_SECONDS, MAX_BODY


async def read_body(request: Request) -> bytes:
    """All of the body. Raises HttpError: 408 too slow, 413 too large, 415 compressed, 400 broken off."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HttpError(415, "Content-Encoding: compressed bodies are not allowed; send it as it is")
    length = request.headers.get("content-length", "0")
    too_large = HttpError(413, f"at most {MAX_BODY} bytes are allowed in a body; send less at a time")
    if length.isascii() and length.isdigit() and int(length[:20]) > MAX_BODY:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise too_large
    except TimeoutError:
        raise HttpError(408, f"the body did not arrive within {BODY_SECONDS:g} s") from None
    except ClientDisconnect:
        raise HttpError(400, "the body broke off") from None
    return bytes(body)


def deeper_than(value: object, levels: int) -> bool:
    """Whether lists and objects are nested more than `levels` deep."""
    if not isinstance(value, dict | list):
        return False
    if levels == 0:
        return True
    return any(deeper_than(child, levels - 1) for child in (value.values() if isinstance(value, dict) else value))
