"""The binary body that the HTTP peers speak: the whole request schema in MessagePack, checked while it is decoded."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from shortlist.serving.tensors import MAX_ID_BYTES, MAX_LIST
from shortlist.types import MAX_K, Request, Slate

Id = Annotated[bytes, Meta(max_length=MAX_ID_BYTES)]
Ids = Annotated[list[Id], Meta(max_length=MAX_LIST)]


class Question(msgspec.Struct, array_like=True, gc=False):
    """A request on the wire."""

    user_id: Id
    history: Ids
    exclude: Ids
    k: Annotated[int, Meta(ge=1, le=MAX_K)] | None
    diversity: Annotated[float, Meta(ge=0, le=1)] | None
    context: dict[str, Any]
    deadline_unix_us: Annotated[int, Meta(ge=1)] | None
    trace: bool


class Answer(msgspec.Struct, array_like=True, gc=False):
    """A slate on the wire; scores and propensities are float32."""

    item_ids: tuple[bytes, ...]
    scores: bytes
    propensities: bytes
    status: str
    trace: bytes


_decode_question = msgspec.msgpack.Decoder(Question).decode
_decode_answer = msgspec.msgpack.Decoder(Answer).decode
_encode = msgspec.msgpack.Encoder().encode


def encode(request: Request) -> bytes:
    """The body of a request."""
    fields = (getattr(request, name) for name in Question.__struct_fields__)
    return _encode(list(fields))


def decode(body: bytes) -> Request:
    """The request of a body. Raises ValueError for what is not allowed."""
    asked = _decode_question(body)
    b"\n".join([asked.user_id, *asked.history, *asked.exclude]).decode()
    return Request(
        asked.user_id,
        tuple(asked.history),
        tuple(asked.exclude),
        asked.k,
        asked.diversity,
        asked.context,
        asked.deadline_unix_us,
        asked.trace,
    )


def encode_slate(slate: Slate) -> bytes:
    """The body of an answer."""
    trace = b"" if slate.trace is None else msgspec.json.encode(slate.trace)
    return _encode(Answer(slate.item_ids, slate.scores.tobytes(), slate.propensities.tobytes(), slate.status, trace))


def decode_slate(body: bytes) -> tuple[bytes, ...]:
    """The item ids of an answer."""
    return _decode_answer(body).item_ids
