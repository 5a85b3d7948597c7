"""Encoders of single columns: one value in, a few float32 features out. Training and serving both call `write`.

Each encoder has `fit` (on training values; None is missing), `names` of its features, `write` (the features of one
value into zeros [width]) and `check` (what a request may give, if not this value). It depends on nothing but NumPy.
`shortlist.data.encoders` joins them into rows. A bucket or flag that training never filled is never written, so that a
model is not asked for weights it has not learnt.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any, ClassVar, TypeVar

import numpy as np

from shortlist.data.values import LARGEST, LIST_LIMIT, STRING, is_integer, is_text
from shortlist.types import Float32

VOCABULARY_LIMIT, IDENTIFIER_LIMIT = 128, 50_000
MIN_COUNT = 2  # rarer values share the unknown bucket, which is how training fills it
BINS = 12
CLIP = 4.0
SKEWED = 2.0  # skewness from which a non-negative number is taken as log(1 + x)
TEXT_WIDTH = 64
TEXT_VOCABULARY = 20_000
HARMONICS = 3
PERIODS = {"hour": 24, "weekday": 7}
WORD = re.compile(r"[^\W_]+")

Document = dict[str, Any]


@dataclass(frozen=True)
class _Vocabulary:
    """A place for each known value, and a bucket for every other one."""

    name: str
    vocabulary: list[str]

    @property
    def names(self) -> list[str]:
        return [f"{self.name}={value}" for value in self.vocabulary] + [f"{self.name}=?"]

    @cached_property
    def _index(self) -> dict[str, int]:
        return {value: place for place, value in enumerate(self.vocabulary)}


@dataclass(frozen=True)
class Category(_Vocabulary):
    """One-hot over the vocabulary, and a bucket for every other value."""

    kind: ClassVar[str] = "category"
    unknown: list[float]  # row of a missing or unknown value: its bucket or, if training never filled that, each share

    @classmethod
    def fit(cls, name: str, values: Sequence[Any]) -> Category:
        counts = Counter(str(value) for value in values if value is not None)
        vocabulary = frequent(counts, VOCABULARY_LIMIT)
        known = [counts[value] for value in vocabulary]
        if len(values) > sum(known):
            return cls(name, vocabulary, [0.0] * len(known) + [1.0])
        return cls(name, vocabulary, [count / max(sum(known), 1) for count in known] + [0.0])

    def write(self, value: Any, out: Float32) -> None:
        place = self._index.get(str(value)) if value is not None else None
        if place is None:
            out[:] = self.unknown
        else:
            out[place] = 1.0

    def check(self, value: Any) -> str | None:
        return None if is_integer(value) or is_text(value) else STRING


@dataclass(frozen=True)
class Multi(_Vocabulary):
    """Several values at once: multi-hot over the vocabulary, and one bucket for all others."""

    kind: ClassVar[str] = "multi"
    unknown: float  # what the bucket of other values says: 0 if training never filled it

    @classmethod
    def fit(cls, name: str, values: Sequence[Any]) -> Multi:
        counts = Counter(token for value in values if value is not None for token in set(value))
        vocabulary = frequent(counts, VOCABULARY_LIMIT)
        return cls(name, vocabulary, float(len(counts) > len(vocabulary)))

    def write(self, value: Any, out: Float32) -> None:
        for token in value if value is not None else ():
            place = self._index.get(token)
            if place is None:
                out[-1] = self.unknown
            else:
                out[place] = 1.0

    def check(self, value: Any) -> str | None:
        allowed = isinstance(value, list) and len(value) <= LIST_LIMIT and all(is_text(token) for token in value)
        return None if allowed else f"a list of at most {LIST_LIMIT} strings"


@dataclass(frozen=True)
class Identifier(Multi):
    """One of many values (a creator, a leaf of a taxonomy): `Multi` with a single token and a far larger vocabulary."""

    kind: ClassVar[str] = "identifier"

    @classmethod
    def fit(cls, name: str, values: Sequence[Any]) -> Identifier:
        counts = Counter(str(value) for value in values if value is not None)
        vocabulary = frequent(counts, IDENTIFIER_LIMIT)
        return cls(name, vocabulary, float(len(counts) > len(vocabulary)))

    def write(self, value: Any, out: Float32) -> None:
        super().write(None if value is None else [str(value)], out)

    def check(self, value: Any) -> str | None:
        return None if is_integer(value) or is_text(value) else STRING


@dataclass(frozen=True)
class Numeric:
    """A number, standardised and clipped; a flag for a missing one, which takes the mean; and its quantile bin."""

    kind: ClassVar[str] = "numeric"
    name: str
    mean: float
    scale: float
    logarithmic: bool
    edges: list[float]  # of the bins, ascending
    missing: float  # what the flag says for a missing value: 0 if training never saw one

    @classmethod
    def fit(cls, name: str, values: Sequence[Any]) -> Numeric:
        present = np.array([number for number in map(_number, values) if number is not None], np.float64)
        missing = float(len(present) < len(values))
        if not len(present):
            return cls(name, 0.0, 1.0, False, [], missing)
        edges = np.unique(np.quantile(present, np.arange(1, BINS) / BINS)).tolist()
        logarithmic = bool(present.min() >= 0 and _skewness(present) > SKEWED)
        scaled = np.log1p(present) if logarithmic else present
        return cls(name, float(scaled.mean()), float(scaled.std()) or 1.0, logarithmic, edges, missing)

    @property
    def names(self) -> list[str]:
        lower = [-math.inf, *self.edges]
        return [self.name, f"{self.name}:missing", *(f"{self.name}>={edge:g}" for edge in lower)]

    def write(self, value: Any, out: Float32) -> None:
        number = _number(value)
        if number is None:
            out[1] = self.missing
            return
        scaled = math.log1p(max(number, 0.0)) if self.logarithmic else number
        out[0] = min(max((scaled - self.mean) / self.scale, -CLIP), CLIP)
        out[2 + bisect_right(self.edges, number)] = 1.0

    def check(self, value: Any) -> str | None:
        allowed = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST
        return None if allowed else f"a number between -{LARGEST:g} and {LARGEST:g}"


@dataclass(frozen=True)
class Cyclic:
    """A whole number on a circle, such as the hour: sines and cosines, so that 23 lies beside 0."""

    kind: ClassVar[str] = "cyclic"
    name: str
    period: int
    missing: list[float]  # the mean row of training, for a missing value

    @classmethod
    def fit(cls, name: str, values: Sequence[Any]) -> Cyclic:
        table = _circle(PERIODS[name])
        present = np.array([value for value in values if value is not None], np.int64)
        mean = table[present].mean(axis=0).tolist() if len(present) else [0.0] * table.shape[1]
        return cls(name, PERIODS[name], mean)

    @property
    def names(self) -> list[str]:
        waves = range(1, HARMONICS + 1)
        return [f"{self.name}:{wave}{turn}" for turn in ("sin", "cos") for wave in waves]

    @cached_property
    def _table(self) -> Float32:
        return _circle(self.period)

    def write(self, value: Any, out: Float32) -> None:
        out[:] = self.missing if value is None else self._table[value]

    def check(self, value: Any) -> str | None:
        return None if is_integer(value) and 0 <= value < self.period else f"an integer from 0 to {self.period - 1}"


@dataclass(frozen=True)
class Text:
    """Words weighed by TF-IDF, projected to a small width by random signs, which are each word's hash bits.

    Projection: Achlioptas, Database-friendly random projections, 2003. Words that training saw once or never weigh 0.
    """

    kind: ClassVar[str] = "text"
    name: str
    weights: dict[str, float]  # inverse document frequency of each known word

    @classmethod
    def fit(cls, name: str, values: Sequence[Any]) -> Text:
        documents = [set(_words(value)) for value in values if value is not None]
        counts = Counter(word for document in documents for word in document)
        known = frequent(counts, TEXT_VOCABULARY)
        return cls(name, {word: math.log((1 + len(documents)) / counts[word]) for word in known})

    @property
    def names(self) -> list[str]:
        return [f"{self.name}:{place}" for place in range(TEXT_WIDTH)]

    @cached_property
    def _signs(self) -> dict[str, Float32]:
        return {word: _hash_signs(word) for word in self.weights}

    def write(self, value: Any, out: Float32) -> None:
        counts = Counter(word for word in _words(value) if word in self.weights) if value is not None else {}
        weights = {word: count * self.weights[word] for word, count in counts.items()}
        norm = math.sqrt(sum(weight * weight for weight in weights.values()))
        if norm:
            for word, weight in weights.items():
                out += self._signs[word] * np.float32(weight / norm)

    def check(self, value: Any) -> str | None:
        return None if is_text(value) else STRING


Encoder = Category | Multi | Identifier | Numeric | Cyclic | Text
ENCODERS: Mapping[str, type[Encoder]] = {
    "category": Category,
    "multi": Multi,
    "identifier": Identifier,
    "numeric": Numeric,
    "cyclic": Cyclic,
    "text": Text,
}


def fit_column(name: str, kind: str, values: Sequence[Any]) -> Encoder:
    """Fit the encoder of `kind` on training values; None is missing."""
    return ENCODERS[kind].fit(name, values)


def column_to_document(encoder: Encoder) -> Document:
    """Plain JSON of one fitted encoder."""
    return {"kind": encoder.kind, **asdict(encoder)}


def column_from_document(document: Mapping[str, Any]) -> Encoder:
    """The encoder that `column_to_document` described."""
    fields = dict(document)
    return ENCODERS[fields.pop("kind")](**fields)


Value = TypeVar("Value", bound=str)


def frequent(counts: Mapping[Value, int], limit: int) -> list[Value]:
    """The most frequent values that occur at least MIN_COUNT times; ties in alphabetical order."""
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return [value for value, count in ranked[:limit] if count >= MIN_COUNT]


def _words(text: str) -> Iterable[str]:
    return WORD.findall(text.lower())


def _number(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _skewness(values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    spread = values.std()
    return float((((values - values.mean()) / spread) ** 3).mean()) if spread else 0.0


def _circle(period: int) -> Float32:
    """[period, 2 * HARMONICS]"""
    angles = 2 * np.pi * np.outer(np.arange(period), np.arange(1, HARMONICS + 1)) / period
    return np.asarray(np.concatenate([np.sin(angles), np.cos(angles)], axis=1), np.float32)


def _hash_signs(word: str) -> Float32:
    digest = blake2b(word.encode(), digest_size=TEXT_WIDTH // 8).digest()
    bits = np.unpackbits(np.frombuffer(digest, np.uint8)) > 0
    return np.where(bits, TEXT_WIDTH**-0.5, -(TEXT_WIDTH**-0.5)).astype(np.float32)
