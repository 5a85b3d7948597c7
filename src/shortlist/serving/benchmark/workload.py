"""The requests that a benchmark sends, and how each protocol writes them down.

Every server is asked the same: people drawn by Zipf's law among those of some history, their own ids, ten items to
leave out, every option of the request but `trace`. Half of the requests bring fifty string ids as their history, the
other half rely on the stored profile. Sending is `load`'s business.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shortlist.bundle import Bundle
from shortlist.catalog import IdMap
from shortlist.profiles.bundle import StoredProfiles
from shortlist.serving.tensors import CONTEXT, DEADLINE, DIVERSITY, INPUTS, K
from shortlist.types import Int32, Int64, Request

ZIPF = 1.1  # exponent of the popularity of people
HISTORY, EXCLUDED, SLATE = 50, 10, 10
HOUR_US = 3_600_000_000


def make_requests(bundle: Path, count: int, seed: int = 0) -> list[Request]:
    """`count` requests to the catalogue and the people of `bundle`; every second brings its history along."""
    opened = Bundle.open(bundle, verify=False)
    items, profiles = IdMap.load(opened, "item"), StoredProfiles.load(opened)
    fields = [encoder["name"] for encoder in opened.document("features")["context"]]
    rng = np.random.default_rng(seed)
    people = _zipf(_active(profiles), count, rng)
    deadline = time.time_ns() // 1000 + HOUR_US
    requests = []
    for i, person in enumerate(people.tolist()):
        sent = _history(profiles.history(person), len(items), rng) if i % 2 else np.empty(0, np.int32)
        excluded = rng.integers(0, len(items), EXCLUDED)
        requests.append(
            Request(
                profiles.ids.id(person),
                tuple(items.id(row) for row in sent.tolist()),
                tuple(items.id(row) for row in excluded.tolist()),
                k=SLATE,
                diversity=0.2,
                context={"hour": int(rng.integers(24))} if "hour" in fields else {},
                deadline_unix_us=deadline,
            )
        )
    return requests


def grpc_message(request: Request, model: str) -> bytes:
    """The request as KServe's ModelInferRequest to Triton's `model`."""
    from tritonclient.grpc import service_pb2

    message = service_pb2.ModelInferRequest(model_name=model)
    for spec, ids in zip(INPUTS, ((request.user_id,), request.history, request.exclude), strict=True):
        message.inputs.add(name=spec.name, datatype=spec.dtype, shape=[1, len(ids)])
        message.raw_input_contents.append(_bytes_tensor(ids))
    for name, value in _options(request).items():
        kind = {int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
        setattr(message.parameters[name], kind, value)
    encoded: bytes = message.SerializeToString()
    return encoded


def grpc_slate(body: bytes) -> tuple[bytes, ...]:
    """The item ids of a ModelInferResponse."""
    from tritonclient.grpc import service_pb2

    response = service_pb2.ModelInferResponse.FromString(body)
    at = [output.name for output in response.outputs].index("item_id")
    raw, start, ids = response.raw_output_contents[at], 0, []
    while start < len(raw):
        stop = start + 4 + int.from_bytes(raw[start : start + 4], "little")
        ids.append(raw[start + 4 : stop])
        start = stop
    return tuple(ids)


def _options(request: Request) -> dict[str, int | float | str]:
    given = {
        K.name: request.k,
        DIVERSITY.name: request.diversity,
        CONTEXT.name: json.dumps(request.context),
        DEADLINE.name: request.deadline_unix_us,
    }
    return {name: value for name, value in given.items() if value is not None}


def _bytes_tensor(ids: Sequence[bytes]) -> bytes:
    return b"".join(len(i).to_bytes(4, "little") + i for i in ids)


def _active(profiles: StoredProfiles) -> Int64:
    """People with a whole history; where there are none, whoever has any."""
    lengths = np.diff(profiles.offsets)
    return np.flatnonzero(lengths >= min(HISTORY, int(lengths.max(initial=1))))


def _zipf(people: Int64, count: int, rng: np.random.Generator) -> Int64:
    weights = 1 / np.arange(1, len(people) + 1) ** ZIPF
    drawn: Int64 = rng.permutation(people)[rng.choice(len(people), count, p=weights / weights.sum())]
    return drawn


def _history(stored: Int32, items: int, rng: np.random.Generator) -> Int32:
    """The latest events of the stored history, with others before them where it is short: [HISTORY]."""
    latest = stored[-HISTORY:]
    return np.concatenate([rng.integers(0, items, HISTORY - len(latest), np.int32), latest])
