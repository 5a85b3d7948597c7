"""The one configuration object: a YAML file in, a validated `Config` out.

Every field is documented by the string under it; unknown keys are refused. Code below this module takes plain
arguments or one of these sections, never a file name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from shortlist.errors import ConfigError

AttributeKind = Literal["category", "multi", "text", "numeric", "identifier"]
SmallKind = Literal["category", "multi", "text", "numeric"]
Protocol = Literal["leave-one-out", "rolling", "cold-users"]


class Section(BaseModel):
    """Base of all sections: frozen, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(Section):
    source: Literal["ml-100k", "recbole", "movielens", "sequences", "table"] = "ml-100k"
    """Where the log comes from: the built-in MovieLens-100k, RecBole atomic files, a MovieLens CSV folder, a text file
    of sequences (`user item` or `user item item …` a line), or any table (CSV, Parquet, JSON lines) with a column
    mapping."""
    path: Path | None = None
    """File or folder to read; not used by `ml-100k`."""
    columns: dict[str, str] = {}
    """`table` only: from our names (user_id, item_id, timestamp, event, value) to the file's column names."""
    item_path: Path | None = None
    """`table` only: a CSV/Parquet file of item attributes with a column `item_id` (or `columns["item_id"]`)."""
    user_path: Path | None = None
    """`table` only: a CSV/Parquet file of user attributes, likewise."""
    item_attributes: dict[str, AttributeKind] = {}
    """`table` only: which item columns to use and how to read each. An `identifier` is a category of many values, such
    as a creator or a leaf of a taxonomy."""
    user_attributes: dict[str, SmallKind] = {}
    """`table` only: which user columns to use and how to read each."""
    context_attributes: dict[str, SmallKind] = {}
    """`table` only: further columns of the log that describe the request (device, locale …), and how to read each."""
    max_rejected: float = Field(0.05, ge=0, le=1)
    """Share of rows that may be rejected before loading fails."""
    event_weights: dict[str, float] = {}
    """Training weight of each event type; absent types weigh 1. A weight of 0 keeps the event in histories only."""


class SplitConfig(Section):
    protocol: Protocol = "leave-one-out"
    """Which examples are held out; training never sees them."""
    test_share: float = Field(0.2, gt=0, lt=1)
    """`rolling`: the latest share of events that is predicted."""
    cold_share: float = Field(0.1, gt=0, lt=0.5)
    """`cold-users`: share of users held out for test, and again for validation."""


class TowerConfig(Section):
    family: Literal["decay", "transformer"] = "decay"
    """How the history becomes a user vector: learned temporal decay, or a causal transformer of LiGR blocks."""
    dim: int = Field(64, ge=8, le=512)
    """Width of the user and item vectors."""
    decays: int = Field(2, ge=1, le=16)
    """`decay`: number of learned decays; the plain mean comes on top."""
    layers: int = Field(2, ge=1, le=8)
    """`transformer`: number of blocks."""
    heads: int = Field(2, ge=1, le=16)
    """`transformer`: attention heads."""
    history: int = Field(50, ge=1, le=1000)
    """Most recent events the tower reads; the same as `cascade.history`, which is what serving feeds it."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout inside the tower."""
    id_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of item ids hidden in training, so that the content vector alone serves new items."""
    epochs: int = Field(20, ge=1)
    """Upper bound on passes over the log; validation may stop earlier."""
    learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate of AdamW; None takes the family's: 0.008 for decay, 0.001 for transformer."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay of AdamW."""
    batch_tokens: int = Field(3200, ge=64)
    """Events per optimiser step."""
    patience: int = Field(3, ge=1)
    """Validations without improvement before training stops."""
    negatives: int | None = Field(None, ge=16)
    """Sampled negatives with logQ correction; None means full softmax, up to 50,000 items."""


class LinearConfig(Section):
    kind: Literal["ease", "directed_ridge", "neighbours"] = "ease"
    """Item-item channel: recency-weighted EASE, a ridge from the decayed history to the next item, or a table of
    neighbours that was computed elsewhere, such as by ALS on Spark (docs/streaming.md)."""
    path: Path | None = None
    """`neighbours`: Parquet file or folder with the columns item_id, neighbour_id and weight."""
    regularization: float = Field(200.0, gt=0)
    """L2 penalty of the closed form."""
    decay: float = Field(0.9, gt=0, le=1)
    """Weight of a history item, per step of age, when scoring."""
    kernel: float = Field(0.95, gt=0, le=1)
    """Weight of a pair of items in the fit, per step between them in the sequence; 1 makes `ease` plain EASE."""
    backward: float = Field(0.0, ge=0, le=1)
    """`directed_ridge`: weight of pairs in the opposite order; about 0.5 helps on sparse data."""
    neighbours: int = Field(500, ge=1)
    """Largest number of neighbours kept for each item."""

    @model_validator(mode="after")
    def _tables_are_named(self) -> LinearConfig:
        if (self.kind == "neighbours") != (self.path is not None):
            raise ValueError(f"kind is {self.kind!r} and path is {self.path}; `neighbours` needs a path, others none")
        return self


class RetrieverConfig(Section):
    towers: tuple[TowerConfig, ...] = (TowerConfig(),)
    """User towers to train; their vectors are concatenated with weights chosen on validation."""
    linear: tuple[LinearConfig, ...] = (LinearConfig(),)
    """Item-item channels to fit; blended with weights chosen on validation."""
    mask_seen: bool | None = None
    """Never return items of the history; None decides by the log's repeat rate."""


class RankerConfig(Section):
    dim: int = Field(16, ge=8, le=256)
    """Width of the ranker's own item embeddings."""
    heads: int = Field(2, ge=1, le=16)
    """Heads of the cross-attention."""
    history: int = Field(50, ge=1, le=1000)
    """Most recent events that candidates attend to, at most `cascade.history`."""
    folds: int = Field(2, ge=2, le=10)
    """User folds for out-of-fold retrieval scores."""
    hard_negatives: int = Field(50, ge=1)
    """Negatives per positive, drawn from the retriever's candidates."""
    positions: int = Field(40, ge=1)
    """Latest events of each user used as ranking examples."""
    epochs: int = Field(4, ge=1)
    """Upper bound on passes over the examples."""
    learning_rate: float = Field(4e-3, gt=0)
    """Peak learning rate."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout inside the ranker."""
    patience: int = Field(2, ge=1)
    """Validations without improvement before training stops."""


class FilterConfig(Section):
    hidden: tuple[int, ...] = (64, 32)
    """Widths of the student's hidden layers."""
    temperature: float = Field(2.0, gt=0)
    """Softmax temperature of the distillation."""
    epochs: int = Field(5, ge=1)
    """Passes over the distillation examples."""
    learning_rate: float = Field(2e-3, gt=0)
    """Peak learning rate."""
    item_precision: Literal["float16", "int8"] = "float16"
    """Numbers of the filter's item table: int8 (scaled by column) takes half the memory, and rounds more."""


class CascadeConfig(Section):
    candidates: int = Field(500, ge=1, le=10_000)
    """Items that retrieval hands to the filter."""
    rank_depth: int = Field(100, ge=1, le=1000)
    """Items that the filter hands to the ranker; raised to twice k when a request asks for more."""
    k: int = Field(10, ge=1, le=50)
    """Slate length when a request does not say."""
    history: int = Field(50, ge=1, le=1000)
    """Most recent events read per request."""
    diversity: float = Field(0.1, ge=0, le=1)
    """Trade-off when a request does not say: 0 is pure relevance (λ = 1), 1 is pure novelty (λ = 0)."""
    diversifier: Literal["mmr", "dpp"] = "mmr"
    """How slates are diversified: `mmr` weighs each item against the most similar one above it, `dpp` against all."""
    group_by: str | None = None
    """Item attribute of which a slate may hold few items of one value (a creator, a category); None caps nothing.
    Items without a value are not counted."""
    max_per_group: int | None = Field(None, ge=1)
    """Most items of one value of `group_by` in a slate; it gets shorter rather than exceed this."""
    eligibility: tuple[str, ...] = ()
    """Item attributes that predicates may ask about (`eligible` of a request, `export --eligible`): of kind category,
    multi or numeric. In the bundle they take up to four bytes for each value of each item, numbers up to eight."""
    efforts: tuple[float, ...] = Field((1.0, 0.5, 0.25), min_length=1)
    """Shares of cells, candidates and rank depth to choose from, 1 first, each smaller than the one before: the
    fullest that fits a request's deadline and `batch_ms` is taken."""
    batch_ms: float = Field(25.0, gt=0)
    """Longest time to spend on one batch: heavy load makes batches large, and lighter efforts keep them in it."""
    cached_slates: int = Field(0, ge=0, le=1_000_000)
    """Slates that each instance keeps for equal requests (about 2 kB each); 0 keeps none, and so does exploration."""
    trending: float | None = Field(None, gt=0)
    """Pseudo-events that the popularity lists weigh against what is taken to now, in windows of an hour and a day, for
    people without a history; needs a server that follows a store. None leaves the lists as they are."""
    exploration: float = Field(0.0, ge=0, lt=1)
    """Probability per slot of showing a random ranked candidate instead; its propensity is reported."""

    @field_validator("efforts")
    @classmethod
    def _efforts_descend(cls, efforts: tuple[float, ...]) -> tuple[float, ...]:
        if efforts[0] != 1 or min(efforts) <= 0 or list(efforts) != sorted(set(efforts), reverse=True):
            raise ValueError("shares from 1 down to above 0 are allowed, each smaller than the one before")
        return efforts

    @model_validator(mode="after")
    def _groups_are_capped(self) -> CascadeConfig:
        if (self.group_by is None) != (self.max_per_group is None):
            raise ValueError(
                f"group_by is {self.group_by!r} and max_per_group is {self.max_per_group}; both or none is allowed"
            )
        return self


class Config(Section):
    """One training run, from log to bundle."""

    seed: int = 0
    """Seed of every random choice."""
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    retriever: RetrieverConfig = RetrieverConfig()
    ranker: RankerConfig = RankerConfig()
    filter: FilterConfig = FilterConfig()
    cascade: CascadeConfig = CascadeConfig()

    @model_validator(mode="after")
    def _depths_descend(self) -> Config:
        if self.cascade.rank_depth > self.cascade.candidates:
            depth, candidates = self.cascade.rank_depth, self.cascade.candidates
            raise ValueError(f"cascade.rank_depth is {depth}; at most cascade.candidates ({candidates}) is allowed")
        return self

    @model_validator(mode="after")
    def _histories_agree(self) -> Config:
        served = self.cascade.history
        for i, tower in enumerate(self.retriever.towers):
            if tower.history != served:
                raise ValueError(
                    f"retriever.towers.{i}.history is {tower.history}; it must be cascade.history ({served})"
                )
        if self.ranker.history > served:
            raise ValueError(f"ranker.history is {self.ranker.history}; at most cascade.history ({served}) is allowed")
        return self

    @classmethod
    def read(cls, path: Path) -> Config:
        """Read and validate one YAML file. Raises ConfigError naming the field, its value and what is allowed."""
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
        except RecursionError:
            raise ConfigError(f"{path}: not valid YAML: nested too deep") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid YAML: {error}") from error
        return cls.parse(content, str(path))

    @classmethod
    def parse(cls, content: object, source: str = "config") -> Config:
        """Validate parsed YAML. Raises ConfigError that lists every bad field."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            rows = [
                f"  {'.'.join(map(str, e['loc'])) or 'config'} = {e['input']!r}: {e['msg']}" for e in error.errors()
            ]
            raise ConfigError("\n".join([f"{source} is not a valid configuration:", *rows])) from error

    def write(self, path: Path) -> None:
        """Write the configuration, defaults included, as YAML."""
        path.write_text(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
