"""Golden requests: what a bundle must answer wherever it is deployed, kept in it as `golden.json`.

Training asks the finished cascade some fifty requests of every kind and keeps the answers; `shortlist deploy` asks them
again before a version goes anywhere near a server. The same bundle on the same kind of machine answers the same items;
scores may differ by TOLERANCE, as ONNX Runtime rounds differently on different CPUs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from shortlist.bundle import Bundle
from shortlist.cascade import Cascade
from shortlist.data.columns import Category, Cyclic, Encoder, Multi, Numeric
from shortlist.errors import BundleError
from shortlist.types import FULL, MAX_K, Request, Slate

DOCUMENT = "golden"
TOLERANCE = 1e-3  # of a score, relative
STRANGER = b"\x7fnobody"

Document = dict[str, Any]


def golden_document(cascade: Cascade) -> Document:
    """The requests and what `cascade` answers, as JSON. Raises BundleError when it does not answer one of them."""
    requests = golden_requests(cascade)
    slates = _answers(cascade, requests)
    return {
        "tolerance": TOLERANCE,
        "cases": [_request_json(r) | {"answer": _slate_json(s)} for r, s in zip(requests, slates, strict=True)],
    }


def check_golden(bundle: Bundle, cascade: Cascade) -> int:
    """Ask the golden requests again: how many there are. 0: the bundle is older and has none, and only had to answer.

    Raises BundleError that tells the first request whose answer differs, and how.
    """
    if not bundle.has(f"{DOCUMENT}.json"):
        _answers(cascade, golden_requests(cascade))
        return 0
    document = bundle.document(DOCUMENT)
    cases = document["cases"]
    slates = _answers(cascade, [_request_of(case) for case in cases])
    for number, (case, slate) in enumerate(zip(cases, slates, strict=True), 1):
        if difference := _difference(case["answer"], _slate_json(slate), document["tolerance"]):
            asked = {name: value for name, value in case.items() if name != "answer"}
            raise BundleError(
                f"{bundle.path}: golden request {number} of {len(cases)} ({asked}) is not answered as after training: "
                f"{difference}; train again on a machine like this one"
            )
    return len(cases)


def golden_requests(cascade: Cascade) -> list[Request]:
    """Known users, given histories, cold starts, exclusions, contexts, predicates, every length of slate.

    They are always the same ones.
    """
    rng = np.random.default_rng(0)
    users, items = (
        _users(cascade, rng),
        [cascade.catalog.ids.id(int(r)) for r in rng.integers(len(cascade.catalog), size=60)],
    )
    popular = tuple(cascade.catalog.ids.id(row) for row in cascade.popularity.rows[0, :20].tolist())
    contexts = _contexts(cascade)
    known = [Request(user) for user in users]
    given = [Request(history=tuple(items[2 * n : 2 * n + 1 + 2 * n])) for n in range(10)]
    lengths = [Request(user, k=k) for user in users[:3] for k in (1, MAX_K)]
    excluding = [Request(user, exclude=popular[: 5 + 5 * n]) for n, user in enumerate(users[3:6])]
    somewhere = [Request(users[n % len(users)], context=context) for n, context in enumerate(contexts)]
    tuned = [Request(users[-1], diversity=diversity, k=20) for diversity in (0.0, 0.5, 1.0)]
    eligible = [Request(users[n % len(users)], eligible=e) for n, e in enumerate(cascade.eligibility.examples())]
    cold = [Request(), Request(STRANGER), Request(k=MAX_K), Request(exclude=popular), Request(context=contexts[0])]
    return known + given + lengths + excluding + somewhere + tuned + eligible + cold


def _users(cascade: Cascade, rng: np.random.Generator) -> list[bytes]:
    """Fifteen ids of people with a history; strangers where nobody has one."""
    stored = cascade.users.profiles
    known = np.flatnonzero(np.diff(stored.offsets))
    if not len(known):
        return [STRANGER] * 15
    return [stored.ids.id(user) for user in rng.choice(known, 15).tolist()]


def _contexts(cascade: Cascade) -> list[dict[str, Any]]:
    """Eight contexts: nothing, then other values in each."""
    encoders = cascade.users.features.context_encoder.encoders
    return [{}, *({encoder.name: _value(encoder, n) for encoder in encoders} for n in range(7))]


def _value(encoder: Encoder, n: int) -> Any:
    if isinstance(encoder, Cyclic):
        return 5 * n % encoder.period
    if isinstance(encoder, Numeric):
        return encoder.edges[n % len(encoder.edges)] if encoder.edges else n
    words = encoder.vocabulary if isinstance(encoder, Category | Multi) else sorted(encoder.weights)
    word = words[n % len(words)] if words else "unknown"
    return [word] if isinstance(encoder, Multi) else word


def _answers(cascade: Cascade, requests: Sequence[Request]) -> list[Slate]:
    """Each alone, without exploration. Raises BundleError for one that is not answered in full."""
    config = cascade.config
    cascade.config = config.model_copy(update={"exploration": 0.0})
    try:
        return [_answer(cascade, request) for request in requests]
    finally:
        cascade.config = config


def _answer(cascade: Cascade, request: Request) -> Slate:
    answer = cascade.recommend([request])[0]
    if isinstance(answer, Slate) and answer.status == FULL:
        return answer
    said = f"status {answer.status}" if isinstance(answer, Slate) else str(answer)
    raise BundleError(f"golden request {_request_json(request)} is not answered in full: {said}; train again")


def _difference(expected: Mapping[str, Any], got: Mapping[str, Any], tolerance: float) -> str:
    """How two answers differ; empty where they do not."""
    if expected["items"] != got["items"]:
        return f"items {got['items']} instead of {expected['items']}"
    before, now = np.array(expected["scores"]), np.array(got["scores"])
    far = np.flatnonzero(np.abs(now - before) > tolerance * np.abs(before) + 1e-6)
    if not len(far):
        return ""
    slot = int(far[0])
    return f"item {got['items'][slot]} scores {now[slot]:g} instead of {before[slot]:g} (tolerance {tolerance:g})"


def _slate_json(slate: Slate) -> Document:
    return {
        "items": [item.decode() for item in slate.item_ids],
        "scores": np.round(slate.scores.astype(float), 9).tolist(),
    }


def _request_json(request: Request) -> Document:
    """What a request asks for, without what it leaves to defaults."""
    default = Request()
    asked = {f.name: getattr(request, f.name) for f in fields(Request)}
    return {name: _text(value) for name, value in asked.items() if value != getattr(default, name)}


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return [item.decode() for item in value] if isinstance(value, tuple) else value


def _request_of(case: Mapping[str, Any]) -> Request:
    asked = {name: value for name, value in case.items() if name != "answer"}
    for name in ("history", "exclude"):
        asked[name] = tuple(item.encode() for item in asked.get(name, ()))
    return Request(**asked | {"user_id": asked.get("user_id", "").encode()})
