"""The trained retriever: user towers, their item table, and item-item channels, weighed into one score.

Score of an item = Σ_towers weight · u·v + Σ_channels Σ_j decay^age_j · B[h_j, item]. The towers' vectors are
concatenated with the weights on the user's side, so that retrieval stays one inner product; a channel's values carry
its weight. All weights are constants chosen in training (`training.retriever`); nothing is scaled per request, and no
history is cut: callers pass as many events as the towers were trained to read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from shortlist.config import TowerConfig
from shortlist.errors import DataError
from shortlist.models.decay import DecayTower
from shortlist.models.linear import LinearChannel
from shortlist.models.transformer import TransformerTower
from shortlist.types import Float32, Int64

WEIGHTS_FILE, SETTINGS_FILE = "retriever.safetensors", "retriever.json"


@dataclass(frozen=True)
class Blend:
    """Weights of the configured towers and channels, in their order; 0 leaves a member out."""

    towers: tuple[float, ...]
    channels: tuple[float, ...]


class BlendedTowers(nn.Module):
    """Several user towers as one: each reads its own columns of the history's vectors."""

    def __init__(self, towers: Sequence[nn.Module], widths: Sequence[int], weights: Sequence[float]) -> None:
        super().__init__()
        self.towers = nn.ModuleList(towers)
        self.widths, self.weights = list(widths), list(weights)

    def forward(self, history: Tensor, lengths: Tensor, side: Tensor) -> Tensor:
        """User vectors: history [B, L, ΣD], lengths Int64[B], side [B, S] -> [B, ΣD]."""
        parts = history.split(self.widths, dim=2)
        vectors = [
            weight * tower(part, lengths, side)
            for tower, part, weight in zip(self.towers, parts, self.weights, strict=True)
        ]
        return torch.cat(vectors, dim=1)


@dataclass(eq=False)
class Retriever:
    """Everything stage 1 learned. Rows of histories are padded with -1 on the right, oldest first."""

    configs: list[TowerConfig]  # of the towers kept, like the next two
    towers: list[nn.Module]
    tables: list[Float32]  # [N, D] item vectors of each tower
    channels: list[LinearChannel]  # of the channels kept; their values carry the weights
    blend: Blend
    side_width: int
    mask_seen: bool  # items of the history are not to be recommended
    report: dict[str, Any] = field(default_factory=dict)  # what training found
    content_maps: list[Float32] = field(default_factory=list)  # [C, D] of each tower; none where items have no content

    def __post_init__(self) -> None:
        weights = [weight for weight in self.blend.towers if weight]
        widths = [table.shape[1] for table in self.tables]
        self.user_module = BlendedTowers(self.towers, widths, weights).eval()
        self._vectors = np.ascontiguousarray(np.concatenate(self.tables, axis=1))

    def item_vectors(self) -> Float32:
        """What user vectors are multiplied with, [N, D]."""
        return self._vectors

    def content_map(self) -> Float32 | None:
        """[C, D]: content times it is the vector of an item that nobody knows; None where none was learned."""
        return np.concatenate(self.content_maps, axis=1) if self.content_maps else None

    def history_vectors(self) -> Float32:
        """What `user_module` reads of each item of a history, [N, D]: the same array."""
        return self._vectors

    @torch.no_grad()
    def user_vectors(self, rows: Int64, lengths: Int64, side: Float32) -> Float32:
        """Histories Int64[B, L], their lengths Int64[B], side features [B, S] -> [B, D]."""
        history = self._vectors[np.maximum(rows, 0)] * (rows >= 0)[..., None].astype(np.float32)
        lengths = np.asarray(lengths, np.int64)
        vectors = self.user_module(torch.from_numpy(history), torch.from_numpy(lengths), torch.from_numpy(side))
        users: Float32 = vectors.numpy()
        return users

    def scores(self, rows: Int64, lengths: Int64, side: Float32) -> tuple[Float32, Float32]:
        """Scores of the whole catalogue by towers and by channels, [B, N] each; the retriever's score is their sum."""
        tower: Float32 = self.user_vectors(rows, lengths, side) @ self._vectors.T
        linear = np.zeros_like(tower)
        for channel in self.channels:
            linear += channel.score(rows, lengths)
        return tower, linear

    def save(self, folder: Path) -> None:
        """Write retriever.safetensors and retriever.json."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self._arrays(), folder / WEIGHTS_FILE)
        settings = {
            "towers": [config.model_dump(mode="json") for config in self.configs],
            "decays": [channel.decay for channel in self.channels],
            "blend": {"towers": self.blend.towers, "channels": self.blend.channels},
            "side_width": self.side_width,
            "mask_seen": self.mask_seen,
            "report": self.report,
        }
        (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Retriever:
        """Read what `save` wrote. Raises DataError when it is missing or damaged."""
        try:
            settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
            arrays = load_file(folder / WEIGHTS_FILE)
            configs = [TowerConfig.model_validate(section) for section in settings["towers"]]
            towers = [
                _restore(build_tower(config, settings["side_width"]), arrays, f"tower{i}/")
                for i, config in enumerate(configs)
            ]
            return cls(
                configs,
                towers,
                [arrays[f"items{i}"] for i in range(len(configs))],
                [_channel(arrays, i, decay) for i, decay in enumerate(settings["decays"])],
                Blend(tuple(settings["blend"]["towers"]), tuple(settings["blend"]["channels"])),
                settings["side_width"],
                settings["mask_seen"],
                settings["report"],
                [arrays[f"content{i}"] for i in range(len(configs)) if f"content{i}" in arrays],
            )
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise DataError(f"{folder}: holds no readable retriever ({error}); train it again") from error

    def _arrays(self) -> dict[str, Any]:
        arrays: dict[str, Any] = {}
        for i, (tower, table) in enumerate(zip(self.towers, self.tables, strict=True)):
            arrays[f"items{i}"] = np.ascontiguousarray(table)
            if self.content_maps:
                arrays[f"content{i}"] = np.ascontiguousarray(self.content_maps[i])
            arrays |= {f"tower{i}/{name}": value.detach().numpy() for name, value in tower.state_dict().items()}
        for i, channel in enumerate(self.channels):
            for part in ("indptr", "indices", "values"):
                arrays[f"channel{i}/{part}"] = getattr(channel, part)
        return arrays


def build_tower(config: TowerConfig, side_width: int) -> nn.Module:
    """An untrained user tower of the configured family."""
    if config.family == "decay":
        return DecayTower(config.dim, side_width, decays=config.decays, dropout=config.dropout)
    return TransformerTower(
        config.dim,
        side_width,
        layers=config.layers,
        heads=config.heads,
        history=config.history,
        dropout=config.dropout,
    )


def _restore(tower: nn.Module, arrays: Mapping[str, Any], prefix: str) -> nn.Module:
    weights = {k.removeprefix(prefix): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(prefix)}
    tower.load_state_dict(weights)
    return tower.eval()


def _channel(arrays: Mapping[str, Any], i: int, decay: float) -> LinearChannel:
    indptr, indices, values = (arrays[f"channel{i}/{part}"] for part in ("indptr", "indices", "values"))
    return LinearChannel(indptr, indices, values, decay)
