"""The stages as Triton models of their own: retrieve, filter, rank, diversify. Run inside Triton's Python stub.

They are for teams who call single stages, or put one of theirs in between; `cascade` does the same in one process for
half the CPU. The user side is computed again by every stage. They have no cold-start path, no deadlines and no
exploration; the bundle is the one of the `cascade` model beside them, of the same version.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from shortlist.cascade import Cascade
from shortlist.errors import RequestError
from shortlist.serving.model import error_response, id_tensor, parameters_of, read, tensor_of
from shortlist.serving.parse import parse_parameters
from shortlist.serving.standing import read_standing
from shortlist.serving.string_tensors import install
from shortlist.serving.tensors import (
    CANDIDATES,
    CASCADE,
    CHANNELS,
    ITEM_ID,
    ROWS,
    SCORE,
    SCORES,
)
from shortlist.types import Candidates, Request


class StageModel(ABC):
    """One stage: what the requests of a batch bring becomes, for each of them, output tensors or an error."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the bundle of the `cascade` model and run this stage once, so that nothing compiles under a request."""
        install(pb_utils)
        folder = Path(args["model_repository"]).parent / CASCADE.name / args["model_version"] / "bundle"
        self.cascade = Cascade.load(folder, eligible=read_standing(folder.parent))
        self.warm_up()

    def warm_up(self) -> None:
        """Compile what this stage uses, and nothing of the others."""
        self.answer(self.samples())

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request, in order."""
        outcomes: list[Any] = [self._read(request) for request in requests]
        valid = [i for i, outcome in enumerate(outcomes) if not isinstance(outcome, RequestError)]
        for i, tensors in zip(valid, self.answer([outcomes[i] for i in valid]) if valid else (), strict=True):
            outcomes[i] = tensors
        return [
            error_response(outcome) if isinstance(outcome, RequestError) else pb_utils.InferenceResponse(outcome)
            for outcome in outcomes
        ]

    @abstractmethod
    def read(self, request: Any) -> Any:
        """What this stage needs of one Triton request. Raises RequestError."""

    @abstractmethod
    def answer(self, batch: list[Any]) -> list[list[Any]]:
        """Output tensors for each member of a batch of `read` results."""

    @abstractmethod
    def samples(self) -> list[Any]:
        """A batch of what `read` may return, to warm up with."""

    def _read(self, request: Any) -> Any:
        try:
            return self.read(request)
        except RequestError as error:
            return error

    def person(self, request: Any) -> Request:
        """The person's side of a Triton request, checked."""
        person = read(request)
        if isinstance(person, RequestError):
            raise person
        self.cascade.users.check(person)
        return person

    def people(self) -> list[Request]:
        """Two to warm up with: one with everything, and one with nothing."""
        first, last = (self.cascade.catalog.ids.id(row) for row in (0, len(self.cascade.catalog) - 1))
        return [Request(history=(first,), exclude=(last,)), Request()]

    def candidates(self) -> Candidates:
        """As many as the stages pass on, [1, N], to warm up with."""
        count = min(self.cascade.config.candidates, len(self.cascade.catalog))
        scores, channels = np.zeros((1, count), np.float32), np.zeros((1, count, 2), np.float32)
        return Candidates(np.arange(count, dtype=np.int32)[None], scores, channels)

    def depth(self, people: Sequence[Request]) -> int:
        """The cascade's rank depth: at least twice the longest slate."""
        return max(self.cascade.config.rank_depth, 2 * max(p.k or self.cascade.config.k for p in people))


class RetrieveModel(StageModel):
    """user_id, history, exclude → candidates."""

    def read(self, request: Any) -> Request:
        """The person."""
        return self.person(request)

    def samples(self) -> list[Any]:
        """People, and predicates."""
        people = self.people()
        return people + [replace(people[0], eligible=e) for e in self.cascade.eligibility.examples()]

    def answer(self, batch: list[Request]) -> list[list[Any]]:
        """The candidates of each person."""
        depth = max(self.cascade.config.candidates, self.depth(batch))
        return candidate_tensors(self.cascade.retrieve(self.cascade.users.read(batch), depth))


class FilterModel(StageModel):
    """user_id, history, exclude and candidates → the best of the candidates, by the student's score."""

    def read(self, request: Any) -> tuple[Request, Candidates]:
        """The person and the candidates."""
        return self.person(request), read_candidates(request, len(self.cascade.catalog))

    def samples(self) -> list[Any]:
        """People, each with candidates."""
        return [(person, self.candidates()) for person in self.people()]

    def answer(self, batch: list[tuple[Request, Candidates]]) -> list[list[Any]]:
        """The candidates that go on."""
        people = [person for person, _ in batch]
        users, candidates = self.cascade.users.read(people), stack([c for _, c in batch])
        return candidate_tensors(self.keep(users, candidates, self.depth(people)))

    def keep(self, users: Any, candidates: Candidates, depth: int) -> Candidates:
        """The stage itself."""
        return self.cascade.filter(users, candidates, depth)


class RankModel(FilterModel):
    """The same with the cross-attention ranker's score."""

    def keep(self, users: Any, candidates: Candidates, depth: int) -> Candidates:
        """The stage itself."""
        return self.cascade.rank(users, candidates, depth)


class DiversifyModel(StageModel):
    """Candidates with the ranker's scores → the slate."""

    def read(self, request: Any) -> tuple[dict[str, Any], Candidates]:
        """k and diversity, and the candidates."""
        return parse_parameters(parameters_of(request)), read_candidates(request, len(self.cascade.catalog))

    def samples(self) -> list[Any]:
        """Candidates."""
        return [({}, self.candidates())]

    def answer(self, batch: list[tuple[dict[str, Any], Candidates]]) -> list[list[Any]]:
        """Item ids and scores, in slate order."""
        candidates = stack([c for _, c in batch])
        return slates_of(self.cascade, [options for options, _ in batch], candidates)


def slates_of(cascade: Cascade, options: Sequence[Mapping[str, Any]], candidates: Candidates) -> list[list[Any]]:
    """Item ids and scores of each request's slate, by the ranker's scores that the candidates carry."""
    config = cascade.config
    lengths = [given.get("k", config.k) for given in options]
    diversity = np.array([given.get("diversity", config.diversity) for given in options], np.float32)
    picks = cascade.diversify(candidates, "rank", diversity, max(lengths))
    slates = []
    for b, k in enumerate(lengths):
        chosen = picks[b, :k][picks[b, :k] >= 0]
        ids = tuple(cascade.catalog.ids.id(row) for row in candidates.rows[b, chosen].tolist())
        slates.append([id_tensor(ITEM_ID, ids), pb_utils.Tensor(SCORE.name, candidates.scores[b, chosen][None])])
    return slates


def read_candidates(request: Any, catalogue: int) -> Candidates:
    """The candidates of one request, [1, N]. Raises RequestError for shapes that disagree or rows out of range."""
    rows, scores, channels = (tensor_of(request, spec) for spec in CANDIDATES)
    if rows.shape[0] != 1 or scores.shape != rows.shape or channels.shape != (*rows.shape, 2):
        shapes = f"{list(rows.shape)}, {list(scores.shape)}, {list(channels.shape)}"
        raise RequestError(f"rows, scores, channels = shapes {shapes}: [1, N], [1, N], [1, N, 2] are allowed")
    if rows.size and not (rows.min() >= 0 and rows.max() < catalogue):
        raise RequestError(f"rows = {rows.min()} to {rows.max()}: 0 to {catalogue - 1} is allowed")
    return Candidates(rows, scores, channels)


def stack(parts: Sequence[Candidates]) -> Candidates:
    """Several [1, N_i] as one [B, max N], padded with row -1."""
    width = max(1, max(part.rows.shape[1] for part in parts))
    rows = np.full((len(parts), width), -1, np.int32)
    scores = np.full((len(parts), width), -np.inf, np.float32)
    channels = np.zeros((len(parts), width, 2), np.float32)
    for b, part in enumerate(parts):
        n = part.rows.shape[1]
        rows[b, :n], scores[b, :n], channels[b, :n] = part.rows[0], part.scores[0], part.channels[0]
    return Candidates(rows, scores, channels)


def candidate_tensors(candidates: Candidates) -> list[list[Any]]:
    """Output tensors of each request, padding left out."""
    return [
        [
            pb_utils.Tensor(ROWS.name, candidates.rows[b : b + 1, real]),
            pb_utils.Tensor(SCORES.name, candidates.scores[b : b + 1, real]),
            pb_utils.Tensor(CHANNELS.name, candidates.channels[b : b + 1, real]),
        ]
        for b, real in enumerate(candidates.rows >= 0)
    ]
