"""The ranker (teacher): candidates as queries over the history, scored one by one beside what retrieval knew.

It starts as the retriever's own order and adds a weighed deviation; training and the choice of that weight on
validation are in `shortlist.training.ranker`. Where vectors and features come from is the caller's business.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from shortlist.types import Float32

CONTENT_MAP = "content_map"  # in the file of a ranker
MASKED = -1e9  # a logit whose softmax weight is exactly 0 in float32


class CrossAttention(nn.Module):
    """Each candidate reads the history by itself; keys and values are computed once per request.

    Keys carry a bias by recency (a learned slope per head over the logarithm of the age), and a learned "nothing"
    key with value zero lets a candidate ignore the history, which also serves the empty one.
    """

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim is {dim}; it must be a multiple of heads ({heads})")
        self.heads, self.window = heads, window
        self.query = nn.Linear(dim, dim)
        self.keys_values = nn.Linear(dim, 2 * dim)
        self.recency = nn.Parameter(torch.linspace(0.1, 1.0, heads))
        self.nothing = nn.Parameter(torch.zeros(heads))

    def forward(self, candidates: Tensor, history: Tensor, lengths: Tensor) -> Tensor:
        """What candidates [B, N, E] read from history [B, L, E] of lengths [B]: [B, N, E]."""
        query = self._split(self.query(candidates))  # [B, H, N, E/H]
        keys, values = (self._split(part) for part in self.keys_values(history).chunk(2, dim=-1))  # [B, H, L, E/H]
        logits = query @ keys.transpose(-1, -2) * keys.shape[-1] ** -0.5 + self._bias(lengths, history.shape[1])
        nothing = self.nothing[None, :, None, None].expand(logits.shape[0], -1, logits.shape[2], 1)
        weights = torch.softmax(torch.cat([logits, nothing], dim=-1), dim=-1)[..., :-1]
        read: Tensor = weights @ values
        return read.transpose(1, 2).flatten(2)

    def _split(self, vectors: Tensor) -> Tensor:
        return vectors.reshape(*vectors.shape[:2], self.heads, -1).transpose(1, 2)

    def _bias(self, lengths: Tensor, width: int) -> Tensor:
        """[B, H, 1, L]: less for older events, `MASKED` for padding and for what lies before the window."""
        age = lengths[:, None] - 1 - torch.arange(width, device=lengths.device)  # [B, L], 0 is the most recent
        decayed = -self.recency[:, None] * torch.log1p(age.clamp(min=0).float())[:, None, :]  # [B, H, L]
        read = (age >= 0) & (age < self.window)
        return torch.where(read[:, None, :], decayed, MASKED)[:, :, None, :]


class Ranker(nn.Module):
    """logit = temperature · (tower + linear score) + weight · (linear(features) + network(…)).

    The deviation starts at zero, and `weight` 0 keeps the retriever's order whatever it learned. Candidates never
    see each other: features are scaled by fitted constants, never over the request.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    platt: Tensor
    table: Tensor

    def __init__(
        self,
        n_items: int,
        dim: int,
        feature_width: int,
        side_width: int,
        heads: int = 2,
        window: int = 50,
        hidden: int = 32,
        dropout: float = 0.0,
    ) -> None:
        """`feature_width` counts the item features and the two retrieval scores that end them (F + 2).

        `window` is how many of the most recent events are read, however long the history that is given.
        """
        super().__init__()
        self.settings: dict[str, Any] = {
            "n_items": n_items,
            "dim": dim,
            "feature_width": feature_width,
            "side_width": side_width,
            "heads": heads,
            "window": window,
            "hidden": hidden,
            "dropout": dropout,
        }
        self.attention = CrossAttention(dim, heads, window)
        self.candidate_part = nn.Linear(3 * dim + feature_width, hidden)
        self.side_part = nn.Linear(side_width, hidden, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, 1, bias=False)
        self.adjustment = nn.Linear(feature_width, 1, bias=False)
        self.log_temperature = nn.Parameter(torch.zeros(()))
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.adjustment.weight)
        self.register_buffer("mean", torch.zeros(feature_width))
        self.register_buffer("scale", torch.ones(feature_width))
        self.register_buffer("weight", torch.ones(()))
        self.register_buffer("platt", torch.tensor([1.0, 0.0]))
        self.register_buffer("table", torch.zeros(n_items, dim))
        self.content_map: Float32 | None = None  # [C, E]: content times it is the vector of an item that nobody knows

    def forward(self, history: Tensor, lengths: Tensor, candidates: Tensor, features: Tensor, side: Tensor) -> Tensor:
        """Logits [B, N] of candidates [B, N, E] for history [B, L, E] (right-padded), lengths [B], side [B, S].

        features [B, N, F + 2] are raw: item features, then tower and linear retrieval score.
        """
        scaled = (features - self.mean) / self.scale
        deviation = self.adjustment(scaled) + self._network(history, lengths, candidates, scaled, side)
        logits: Tensor = self.retrieval(features) * self.log_temperature.exp() + self.weight * deviation.squeeze(-1)
        return logits

    def retrieval(self, features: Tensor) -> Tensor:
        """The retriever's own score of features [B, N, F + 2]: [B, N]."""
        return features[..., -2] + features[..., -1]

    def probability(self, logits: Tensor) -> Tensor:
        """Calibrated probability by Platt scaling, in the order of the logits."""
        return torch.sigmoid(self.platt[0] * logits + self.platt[1])

    def item_embeddings(self) -> Float32:
        """The ranker's own item vectors, [N, E], for the catalogue's table."""
        return self.table.cpu().numpy()

    def save(self, directory: Path) -> None:
        """Write `ranker.safetensors` and `ranker.json` into `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.contiguous() for name, value in self.state_dict().items()}
        if self.content_map is not None:
            tensors[CONTENT_MAP] = torch.from_numpy(self.content_map)
        save_file(tensors, directory / "ranker.safetensors")
        (directory / "ranker.json").write_text(json.dumps(self.settings, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> Ranker:
        """Read what `save` wrote."""
        ranker = cls(**json.loads((directory / "ranker.json").read_text(encoding="utf-8")))
        tensors = load_file(directory / "ranker.safetensors")
        if CONTENT_MAP in tensors:
            ranker.content_map = tensors.pop(CONTENT_MAP).numpy()
        ranker.load_state_dict(tensors)
        return ranker.eval()

    def _network(self, history: Tensor, lengths: Tensor, candidates: Tensor, scaled: Tensor, side: Tensor) -> Tensor:
        read = self.attention(candidates, history, lengths)  # [B, N, E]
        joined = torch.cat([candidates, read, candidates * read, scaled], dim=-1)
        hidden = self.candidate_part(joined) + self.side_part(side)[:, None, :]
        output: Tensor = self.output(self.dropout(nn.functional.gelu(hidden)))
        return output  # [B, N, 1]
