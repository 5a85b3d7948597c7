"""Trains the configured user towers, fits the item-item channels, and blends them by validation.

Members that do not help are dropped, so that serving pays only for what ranks better. `refit` makes the same retriever
from another log, with the same weights: out-of-fold candidates come from retrievers that never saw the user. The loop
itself is `training.loop`'s, the closed forms are `models.linear`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn

from shortlist.config import LinearConfig, RetrieverConfig, TowerConfig
from shortlist.data.log import InteractionLog
from shortlist.data.splits import Examples
from shortlist.errors import ConfigError
from shortlist.models.items import ItemTower, as_content
from shortlist.models.linear import LinearChannel, directed_ridge, ease
from shortlist.models.retriever import Blend, Retriever, build_tower
from shortlist.training.blend import choose_weights
from shortlist.training.loop import TrainingResult, TrainingSettings, train_tower
from shortlist.training.neighbours import read_neighbours
from shortlist.training.objective import SideFeatures
from shortlist.types import Float32, Int64

if TYPE_CHECKING:
    from shortlist.data.features import Content

REPEATS_ARE_A_HABIT = 0.05  # repeat rate from which on items of the history may be recommended again
BLEND_CELLS = 100_000_000  # scores held for each member while weights are chosen
BLEND_BATCH = 256
FAINT = 1e-6  # weight of a tower that only has to exist, relative to its largest value


@dataclass(frozen=True)
class _Start:
    init_std: float | None  # of item embeddings; None: dim ** -0.5
    ema_every: int  # optimiser steps between two updates of the averaged weights
    learning_rate: float


# A decay tower adds vectors up and trains in a few hundred large steps; a transformer scales its input and takes many.
STARTS = {"decay": _Start(None, 1, 8e-3), "transformer": _Start(0.02, 5, 1e-3)}


def train_retriever(
    config: RetrieverConfig,
    log: InteractionLog,
    validation: Examples,
    *,
    content: Content | None = None,
    side: SideFeatures | None = None,
    seed: int = 0,
    checkpoint_dir: Path | None = None,
    show_progress: bool = True,
) -> Retriever:
    """Train every tower and channel of `config` on `log`, and choose their weights on `validation`.

    `content` Float32[N, C] describes the items, `side(examples)` Float32[E, S] users and contexts. Trainings under way
    are resumed from `checkpoint_dir`. Raises ConfigError when no tower is configured.
    """
    if not config.towers:
        raise ConfigError("retriever.towers is empty; at least one tower is needed")
    everything = Blend((1.0,) * len(config.towers), (1.0,) * len(config.linear))
    fitting = _Fitting(config, log, validation, content, side, seed, checkpoint_dir, show_progress)
    members = fitting.fit(everything)
    blend, found = fitting.choose(members)
    retriever = fitting.assemble(members, blend, config.towers)
    retriever.report |= {"ndcg": found, "blend": asdict(blend)}
    return retriever


def refit(
    config: RetrieverConfig,
    retriever: Retriever,
    log: InteractionLog,
    validation: Examples,
    *,
    content: Content | None = None,
    side: SideFeatures | None = None,
    seed: int = 0,
    checkpoint_dir: Path | None = None,
    show_progress: bool = True,
) -> Retriever:
    """The towers and channels that `retriever` kept, trained anew on `log` and blended with the same weights."""
    fitting = _Fitting(config, log, validation, content, side, seed, checkpoint_dir, show_progress, retriever.mask_seen)
    return fitting.assemble(fitting.fit(retriever.blend), retriever.blend, config.towers)


class _Tower(NamedTuple):
    """A trained tower."""

    module: nn.Module
    table: Float32  # [N, D] item vectors
    result: TrainingResult
    content_map: Float32 | None  # [C, D]


@dataclass(eq=False)
class _Members:
    """What was trained, in the order of the configuration; None where it was left out."""

    towers: list[_Tower | None]
    channels: list[LinearChannel | None]


class _Fitting:
    """One fit of a configuration to one log."""

    def __init__(
        self,
        config: RetrieverConfig,
        log: InteractionLog,
        validation: Examples,
        content: Content | None,
        side: SideFeatures | None,
        seed: int,
        folder: Path | None,
        show_progress: bool,
        mask_seen: bool | None = None,
    ) -> None:
        self.config, self.log, self.validation, self.side = config, log, validation, side
        self.seed, self.folder, self.show_progress = seed, folder, show_progress
        useful = content is not None and content.shape[1] > 0
        self.content = as_content(content) if content is not None and useful else None
        self.side_width = 0 if side is None else side(validation.subset(slice(0, 1))).shape[1]
        decided = config.mask_seen if mask_seen is None else mask_seen
        self.mask_seen = log.repeat_rate() <= REPEATS_ARE_A_HABIT if decided is None else decided

    def fit(self, blend: Blend) -> _Members:
        """Train every member that has a weight in `blend`."""
        towers = [
            self.train_tower(i, settings) if weight else None
            for i, (settings, weight) in enumerate(zip(self.config.towers, blend.towers, strict=True))
        ]
        channels = [
            fit_channel(settings, self.log) if weight else None
            for settings, weight in zip(self.config.linear, blend.channels, strict=True)
        ]
        return _Members(towers, channels)

    def train_tower(self, i: int, settings: TowerConfig) -> _Tower:
        torch.manual_seed(self.seed + i)
        start = STARTS[settings.family]
        items = ItemTower(
            self.log.n_items,
            settings.dim,
            self.content,
            known=torch.from_numpy(self.log.popularity() > 0),
            id_dropout=settings.id_dropout,
            init_std=start.init_std or settings.dim**-0.5,
        )
        tower = build_tower(settings, self.side_width)
        result = train_tower(
            tower,
            items,
            self.log,
            self.validation,
            TrainingSettings(
                window=settings.history,
                epochs=settings.epochs,
                patience=settings.patience,
                batch_tokens=settings.batch_tokens,
                learning_rate=settings.learning_rate or start.learning_rate,
                weight_decay=settings.weight_decay,
                mask_seen=self.mask_seen,
                negatives=settings.negatives,
                ema_every=start.ema_every,
                seed=self.seed + i,
            ),
            side=self.side,
            checkpoint_dir=self.folder and self.folder / f"tower{i}",
            show_progress=self.show_progress,
            title=f"{settings.family} tower",
        )
        with torch.no_grad():
            table = items.cpu().eval().all().numpy().astype(np.float32)
        return _Tower(tower.cpu().eval(), table, result, items.content_map())

    def choose(self, members: _Members) -> tuple[Blend, float]:
        """Weights by NDCG@10 on validation. One tower stays whatever it is worth, for retrieval needs vectors."""
        examples = self.validation.sample(max(BLEND_BATCH, BLEND_CELLS // self.log.n_items), self.seed)
        weights, found = choose_weights(self.member_scores(members, examples), examples.targets().astype(np.int64))
        towers, channels = weights[: len(members.towers)], weights[len(members.towers) :]
        if not any(towers):
            best = int(np.argmax([trained.result.ndcg for trained in members.towers if trained]))
            towers[best] = FAINT / max(float(np.abs(members.towers[best].table).max()), 1e-9)  # type: ignore[union-attr]
        return Blend(tuple(towers), tuple(channels)), found

    def member_scores(self, members: _Members, examples: Examples) -> list[Float32]:
        """Scores [E, N] of each member alone, items of the history masked where they are not to be recommended."""
        longest = max(settings.history for settings in self.config.towers)
        matrices = []
        for settings, trained in zip(self.config.towers, members.towers, strict=True):
            alone = self.assemble(_Members([trained], []), Blend((1.0,), ()), [settings])
            batches = self.batches(examples, settings.history)
            matrices.append(np.concatenate([alone.scores(*batch)[0] for batch in batches]))
        for channel in filter(None, members.channels):
            batches = self.batches(examples, longest)
            matrices.append(np.concatenate([channel.score(rows, lengths) for rows, lengths, _ in batches]))
        if self.mask_seen:
            _mask_histories(matrices, examples)
        return matrices

    def batches(self, examples: Examples, length: int) -> Iterator[tuple[Int64, Int64, Float32]]:
        """Histories of at most `length` events, their lengths, and side features, batch by batch."""
        for start in range(0, len(examples), BLEND_BATCH):
            part = examples.subset(slice(start, start + BLEND_BATCH))
            rows, lengths = part.histories(0, len(part), length)
            yield rows, lengths, np.zeros((len(part), 0), np.float32) if self.side is None else self.side(part)

    def assemble(self, members: _Members, blend: Blend, configs: Sequence[TowerConfig]) -> Retriever:
        """The retriever of the members that have a weight in `blend`."""
        kept = [
            (config, trained) for config, trained, weight in zip(configs, members.towers, blend.towers, strict=True)
            if trained and weight
        ]  # fmt: skip
        return Retriever(
            configs=[config for config, _ in kept],
            towers=[trained.module for _, trained in kept],
            tables=[trained.table for _, trained in kept],
            content_maps=[trained.content_map for _, trained in kept if trained.content_map is not None],
            channels=[
                channel.scaled(weight)
                for channel, weight in zip(members.channels, blend.channels, strict=True)
                if channel and weight
            ],
            blend=blend,
            side_width=self.side_width,
            mask_seen=self.mask_seen,
            report={"towers": [asdict(trained.result) if trained else None for trained in members.towers]},
        )


def fit_channel(settings: LinearConfig, log: InteractionLog) -> LinearChannel:
    """The item-item channel that `settings` describes, unweighed."""
    shared = (log, settings.regularization, settings.decay, settings.neighbours)
    if settings.path is not None:
        return read_neighbours(settings.path, log, settings.decay, settings.neighbours)
    if settings.kind == "ease":
        return ease(*shared, kernel=settings.kernel)
    return directed_ridge(*shared, kernel=settings.kernel, backward=settings.backward)


def _mask_histories(matrices: list[Float32], examples: Examples) -> None:
    """Set the scores [E, N] of everything an example's user had before to -inf, in place."""
    positions = examples.positions.astype(np.int64)
    example = np.repeat(np.arange(len(examples)), positions)
    step = np.arange(len(example)) - np.repeat(np.cumsum(positions) - positions, positions)
    rows = examples.log.rows[examples.log.offsets[examples.users[example]] + step]
    for scores in matrices:
        scores[example, rows] = -np.inf
