"""Clients of a served cascade, over gRPC: `Client`, and `AsyncClient` for asyncio.

    with Client("127.0.0.1:8001") as client:
        for item in client.recommend("42", k=10, context={"device": "phone"}):
            print(item.id, item.score)

They only translate; the server validates. A plain tritonclient works as well (see `tensors` for names and types).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from shortlist.errors import DeadlineError, RequestError, ServerError, ShortlistError
from shortlist.serving.tensors import (
    CASCADE,
    CONTEXT,
    DEADLINE,
    DIVERSITY,
    ELIGIBLE,
    ITEM_ID,
    PROPENSITY,
    SCORE,
    STATUS,
    TRACE,
    TRACE_WANTED,
    TRACEPARENT,
    K,
)
from shortlist.serving.tls import Tls, connection

Id = str | bytes | int
CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2000),  # the time that one attempt gets, which a busy machine needs
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    (
        "grpc.service_config",
        '{"loadBalancingConfig": [{"round_robin": {}}]}',
    ),  # over all addresses of a headless service
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own, not one that gave up on an earlier server
]
_GRACE = 0.25  # seconds that gRPC waits beyond the caller's deadline, for the server's own answer to arrive


@dataclass(frozen=True, slots=True)
class Item:
    """One recommended item."""

    id: str
    score: float
    propensity: float


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The answer to one request; iterating gives its items, best first."""

    items: tuple[Item, ...]
    status: str
    trace: dict[str, Any] | None = None
    version: str = ""  # of the served model, as in `shortlist versions`
    request_id: str = ""  # as in the server's logs

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def ids(self) -> list[str]:
        """The item ids, best first."""
        return [item.id for item in self.items]


class Client:
    """A connection to one server; threads may share it."""

    def __init__(
        self,
        url: str = "127.0.0.1:8001",
        model: str = CASCADE.name,
        timeout: float = 10.0,
        tls: Tls | None = None,
    ) -> None:
        """`timeout` is how many seconds a request without a deadline may take; `tls` is for a server that speaks it.

        Raises ConfigError when a file of `tls` cannot be read.
        """
        self.url, self.model, self.timeout = url, model, timeout
        self._client = triton.InferenceServerClient(**connection(url, tls, CHANNEL))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def recommend(
        self,
        user_id: Id = "",
        *,
        k: int | None = None,
        history: Sequence[Id] = (),
        exclude: Sequence[Id] = (),
        diversity: float | None = None,
        context: Mapping[str, Any] | None = None,
        deadline_ms: float | None = None,
        eligible: Mapping[str, Any] | None = None,
        trace: bool = False,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> Recommendation:
        """A slate of `k` items for one person; `deadline_ms` is how long the answer is worth waiting for.

        `eligible` says what item attributes must be, such as {"in_stock": True, "locale": ["de", "en"]}; the slate is
        shorter, or empty, where few items are. `request_id` stands in the server's logs (by default a random one), and
        `traceparent` (W3C) makes the server's spans part of the caller's trace.
        Raises RequestError for a bad field, DeadlineError when time ran out, ServerError when there is no server.
        """
        inputs = _inputs(user_id, history, exclude)
        parameters = _parameters(k, diversity, context, deadline_ms, eligible, trace, traceparent)
        name = request_id or uuid4().hex
        timeout = self.timeout if deadline_ms is None else max(0.0, deadline_ms / 1e3) + _GRACE
        try:
            result = self._client.infer(
                self.model, inputs, request_id=name, parameters=parameters, client_timeout=timeout
            )
        except InferenceServerException as error:
            raise _translated(error, self.url, deadline_ms, name) from None
        return _recommendation(result)


class AsyncClient:
    """The same for asyncio; make and use it inside one event loop."""

    def __init__(
        self,
        url: str = "127.0.0.1:8001",
        model: str = CASCADE.name,
        timeout: float = 10.0,
        tls: Tls | None = None,
    ) -> None:
        """See `Client`."""
        self.url, self.model, self.timeout = url, model, timeout
        self._client = triton_aio.InferenceServerClient(**connection(url, tls, CHANNEL))

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()

    async def recommend(
        self,
        user_id: Id = "",
        *,
        k: int | None = None,
        history: Sequence[Id] = (),
        exclude: Sequence[Id] = (),
        diversity: float | None = None,
        context: Mapping[str, Any] | None = None,
        deadline_ms: float | None = None,
        eligible: Mapping[str, Any] | None = None,
        trace: bool = False,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> Recommendation:
        """See `Client.recommend`."""
        inputs = _inputs(user_id, history, exclude)
        parameters = _parameters(k, diversity, context, deadline_ms, eligible, trace, traceparent)
        name = request_id or uuid4().hex
        timeout = self.timeout if deadline_ms is None else max(0.0, deadline_ms / 1e3) + _GRACE
        try:
            result = await self._client.infer(
                self.model, inputs, request_id=name, parameters=parameters, client_timeout=timeout
            )
        except InferenceServerException as error:
            raise _translated(error, self.url, deadline_ms, name) from None
        return _recommendation(result)


def _inputs(user_id: Id, history: Sequence[Id], exclude: Sequence[Id]) -> list[Any]:
    tensors = []
    for spec, ids in zip(CASCADE.inputs, ((user_id,), history, exclude), strict=True):
        values = np.empty((1, len(ids)), np.object_)
        values[0, :] = [_encoded(i) for i in ids]
        tensor = triton.InferInput(spec.name, values.shape, spec.dtype)
        tensors.append(tensor.set_data_from_numpy(values))
    return tensors


def _encoded(value: Id) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _parameters(
    k: int | None,
    diversity: float | None,
    context: Mapping[str, Any] | None,
    deadline_ms: float | None,
    eligible: Mapping[str, Any] | None,
    trace: bool,
    traceparent: str | None,
) -> dict[str, Any]:
    """Only what was asked for: absent parameters take the server's defaults."""
    given = {
        K.name: k,
        DIVERSITY.name: diversity,
        CONTEXT.name: None if context is None else json.dumps(context, ensure_ascii=False),
        DEADLINE.name: None if deadline_ms is None else time.time_ns() // 1000 + int(deadline_ms * 1000),
        ELIGIBLE.name: None if eligible is None else json.dumps(eligible, ensure_ascii=False),
        TRACE_WANTED.name: trace or None,
        TRACEPARENT.name: traceparent,
    }
    return {name: value for name, value in given.items() if value is not None}


def _recommendation(result: Any) -> Recommendation:
    ids, scores, propensities = (result.as_numpy(t.name)[0].tolist() for t in (ITEM_ID, SCORE, PROPENSITY))
    trace = result.as_numpy(TRACE.name)[0, 0]
    items = (Item(i.decode(), s, p) for i, s, p in zip(ids, scores, propensities, strict=True))
    return Recommendation(
        tuple(items),
        result.as_numpy(STATUS.name)[0, 0].decode(),
        json.loads(trace) if trace else None,
        result.get_response().model_version,
        result.get_response().id,
    )


def _translated(
    error: InferenceServerException, url: str, deadline_ms: float | None, request_id: str
) -> ShortlistError:
    message, code = str(error.message()), str(error.status()).removeprefix("StatusCode.")
    if code == "INVALID_ARGUMENT" or error.status() is None:  # without a status it was the client library's refusal
        return RequestError(message)
    if code == "CANCELLED":
        return DeadlineError(message)
    if code == "DEADLINE_EXCEEDED" and deadline_ms is not None:
        return DeadlineError(f"deadline_ms = {deadline_ms:g}: no answer from {url} in time; send a later one")
    if code == "UNAVAILABLE":
        return ServerError(f"no server answers at {url} ({message}); start one with `shortlist serve DIR`")
    return ServerError(f"{url} answered {code}: {message} (request {request_id})")
