"""The filter (student): a small MLP that repeats the ranker's judgement at a fraction of its cost.

It sees the product of user and item vector, item features, retrieval scores and the side features, all raw; it is
distilled in `shortlist.training.student`. In serving, scaling, clipping and the linear part are done where the features
are gathered (`shortlist.training.filter`), and the rest, `head`, is a graph in INT8 (`shortlist.export.quantize`).
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

CLIP = 4.0  # standard deviations that the INT8 part resolves; the linear part is not clipped


class Student(nn.Module):
    """score = linear(scaled features) + MLP(clipped scaled features).

    The linear part copies what retrieval already knows exactly and stays in float; the MLP is what gets quantized.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, hidden: tuple[int, ...] = (64, 32)) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {"width": width, "hidden": list(hidden)}
        self.skip = nn.Linear(width, 1)
        layers: list[nn.Module] = []
        for before, after in zip((width, *hidden), hidden, strict=False):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.mlp = nn.Sequential(*layers, nn.Linear((width, *hidden)[-1], 1, bias=False))
        nn.init.zeros_(self.skip.weight)
        nn.init.zeros_(self.skip.bias)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def forward(self, features: Tensor) -> Tensor:
        """Scores [M] of features [M, G] = [u·v (D) | item features | tower, linear | side], raw."""
        scaled = self.scaled(features)
        linear: Tensor = self.skip(scaled)
        return self.head(scaled.clamp(-CLIP, CLIP), linear.squeeze(-1))

    def scaled(self, features: Tensor) -> Tensor:
        """Raw features [M, G] as deviations from their mean in training."""
        scaled: Tensor = (features - self.mean) / self.scale
        return scaled

    def head(self, clipped: Tensor, linear: Tensor) -> Tensor:
        """Scores [M] of features [M, G] that are scaled and clipped already, and of their linear part [M]."""
        scores: Tensor = self.mlp(clipped)
        return linear + scores.squeeze(-1)

    def save(self, directory: Path) -> None:
        """Write `student.safetensors` and `student.json` into `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: value.contiguous() for name, value in self.state_dict().items()}, directory / "student.safetensors"
        )
        (directory / "student.json").write_text(json.dumps(self.settings, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> Student:
        """Read what `save` wrote."""
        settings = json.loads((directory / "student.json").read_text(encoding="utf-8"))
        student = cls(settings["width"], tuple(settings["hidden"]))
        student.load_state_dict(load_file(directory / "student.safetensors"))
        return student.eval()


@torch.no_grad()
def pruned(student: Student, features: Tensor, hidden: tuple[int, ...]) -> Student:
    """A copy that keeps the `hidden` most important units of each layer, judged on raw features [M, G].

    A unit is worth what its mean cannot stand in for: its deviation times the norm of the weights that read it is the
    root mean square change of the next layer's input. Means of dropped units go into the next biases; after the last
    layer there is none, and all scores move alike.

    Raises ValueError where `hidden` is not as deep as the student, or asks for more units than a layer has.
    """
    given = student.settings["hidden"]
    if len(hidden) != len(given) or any(not 1 <= kept <= units for kept, units in zip(hidden, given, strict=True)):
        raise ValueError(f"hidden = {hidden}: {len(given)} layers of at least 1 and at most {given} units are allowed")
    smaller = Student(student.settings["width"], hidden)
    for name in ("mean", "scale"):
        getattr(smaller, name).copy_(getattr(student, name))
    smaller.skip.load_state_dict(student.skip.state_dict())
    layers, kept_layers = _linear_layers(student), _linear_layers(smaller)
    entering = student.scaled(features).clamp(-CLIP, CLIP)
    weight: Tensor = layers[0].weight
    bias: Tensor = layers[0].bias
    for (_, reader), layer, kept in zip(pairwise(layers), kept_layers, hidden, strict=False):
        units = torch.relu(entering @ weight.T + bias)  # [M, H]
        worth = units.std(dim=0, correction=0) * reader.weight.norm(dim=0)
        keep = worth.topk(kept).indices.sort().values
        dropped = units.mean(dim=0).index_fill(0, keep, 0.0)
        layer.weight.copy_(weight[keep])
        layer.bias.copy_(bias[keep])
        entering, weight = units[:, keep], reader.weight[:, keep]
        bias = reader.weight @ dropped + (0.0 if reader.bias is None else reader.bias)
    kept_layers[-1].weight.copy_(weight)
    return smaller.eval()


def _linear_layers(student: Student) -> list[nn.Linear]:
    return [layer for layer in student.mlp if isinstance(layer, nn.Linear)]
