"""Who sends requests in a load test, and what they send: encoded messages, each a function of seed and number.

Most are users drawn by Zipf's law; others are unknown, bring thousands of events, or bring nothing; and some requests
are wrong. Sending is the business of `locustfile`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tritonclient.grpc import service_pb2

from shortlist.bundle import Bundle
from shortlist.catalog import IdMap
from shortlist.profiles.bundle import StoredProfiles
from shortlist.serving.benchmark.workload import ZIPF, grpc_message
from shortlist.serving.tensors import CASCADE
from shortlist.types import Request

ZIPF_USER, COLD_USER, LONG_HISTORY, EMPTY_HISTORY, BAD = "zipf user", "cold user", "long history", "no history", "bad"
SHARES = {ZIPF_USER: 0.65, COLD_USER: 0.1, LONG_HISTORY: 0.1, EMPTY_HISTORY: 0.1, BAD: 0.05}
LONG = (500, 5000)  # events of a long history
FAULTS = ("k", "diversity", "unknown parameter", "not UTF-8", "a history too long", "shape")


@dataclass(frozen=True, slots=True)
class Sent:
    """One request: whose it is, and what goes over the wire."""

    profile: str
    message: bytes


class Profiles:
    """Requests to the catalogue and the users of one bundle."""

    def __init__(self, bundle: Path, seed: int = 0) -> None:
        """Raises BundleError when there is no bundle."""
        opened = Bundle.open(bundle, verify=False)
        self._items, self._users = IdMap.load(opened, "item"), StoredProfiles.load(opened).ids
        self._seed = seed
        self._ranks = np.random.default_rng(seed).permutation(len(self._users))  # who is the most active, and so on

    def request(self, number: int, deadline_ms: float | None = None, now_us: int = 0) -> Sent:
        """The request of that number; with a deadline so many milliseconds after `now_us` (since 1970)."""
        rng = np.random.default_rng([self._seed, number])
        profile = str(rng.choice(list(SHARES), p=list(SHARES.values())))
        deadline = None if deadline_ms is None else now_us + int(1e3 * deadline_ms)
        user, history = self._user(profile, rng), self._history(profile, rng)
        message = grpc_message(Request(user, history, diversity=0.2, deadline_unix_us=deadline), CASCADE.name)
        return Sent(profile, _spoilt(message, str(rng.choice(FAULTS))) if profile == BAD else message)

    def _user(self, profile: str, rng: np.random.Generator) -> bytes:
        if profile == EMPTY_HISTORY:
            return b""
        if profile == COLD_USER:
            return b"never seen %d" % rng.integers(1 << 40)
        while (rank := int(rng.zipf(ZIPF))) > len(self._ranks):
            pass
        return self._users.id(int(self._ranks[rank - 1]))

    def _history(self, profile: str, rng: np.random.Generator) -> tuple[bytes, ...]:
        lengths = {LONG_HISTORY: int(rng.integers(*LONG)), COLD_USER: int(rng.integers(0, 5))}
        rows = rng.integers(0, len(self._items), lengths.get(profile, 0)).tolist()
        return tuple(self._items.id(row) for row in rows)


def _spoilt(message: bytes, fault: str) -> bytes:
    """The request with one thing wrong, which the server must refuse."""
    request = service_pb2.ModelInferRequest.FromString(message)
    match fault:
        case "k":
            request.parameters["k"].int64_param = 0
        case "diversity":
            request.parameters["diversity"].double_param = float("nan")
        case "unknown parameter":
            request.parameters["depth"].int64_param = 3
        case "not UTF-8":
            request.raw_input_contents[0] = b"\x02\x00\x00\x00\xff\xfe"
        case "a history too long":
            request.inputs[1].shape[1] = 10_001
            request.raw_input_contents[1] = b"\x01\x00\x00\x00x" * 10_001
        case _:
            request.inputs[0].shape[1] = 2
    encoded: bytes = request.SerializeToString()
    return encoded
