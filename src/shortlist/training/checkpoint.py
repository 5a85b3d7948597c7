"""Resumable training state in one safetensors file, written atomically; its header carries the rest as JSON.

It knows modules and optimizers, not what they train. Nothing in the file can execute.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from shortlist.errors import ConfigError, DataError

FILE = "checkpoint.safetensors"


def save_checkpoint(
    folder: Path,
    module: nn.Module,
    optimizers: Sequence[Optimizer],
    averages: dict[str, dict[str, Tensor]],
    progress: dict[str, Any],
) -> None:
    """Write weights, the optimizers' state, named `averages` of the weights, and `progress` (JSON) to `folder`."""
    tensors = {f"module/{name}": value for name, value in module.state_dict().items()}
    for title, weights in averages.items():
        tensors.update({f"{title}/{name}": value for name, value in weights.items()})
    for index, (state, _) in enumerate(_states(optimizers)):
        tensors.update({f"optimizer/{index}/{name}": value for name, value in state.items()})
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{FILE}.partial"
    save_file(
        {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()},
        partial,
        {"progress": json.dumps(progress)},
    )
    os.replace(partial, folder / FILE)


def load_checkpoint(
    folder: Path, module: nn.Module, optimizers: Sequence[Optimizer], settings: dict[str, Any]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
    """Restore `module` and `optimizers`; return the averages and the progress, or None where there is no checkpoint.

    Raises ConfigError if the checkpoint was made with other `settings`, DataError if it cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            progress: dict[str, Any] = json.loads(file.metadata()["progress"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a readable checkpoint ({error}). Delete it to train anew.") from error
    _require_same(path, progress["settings"], settings)
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        group, _, rest = name.partition("/")
        groups.setdefault(group, {})[rest] = value
    module.load_state_dict(groups.pop("module"))
    _restore_states(optimizers, groups.pop("optimizer", {}))
    return groups, progress


def _require_same(path: Path, saved: dict[str, Any], settings: dict[str, Any]) -> None:
    changed = [name for name in sorted(saved.keys() | settings.keys()) if saved.get(name) != settings.get(name)]
    if changed:
        rows = ", ".join(f"{name} was {saved.get(name)!r}, is {settings.get(name)!r}" for name in changed)
        raise ConfigError(f"{path} belongs to another run: {rows}. Delete it, or choose another folder.")


def _restore_states(optimizers: Sequence[Optimizer], tensors: dict[str, Tensor]) -> None:
    states = _states(optimizers)
    for name, value in tensors.items():
        index, _, key = name.partition("/")
        state, parameter = states[int(index)]
        state[key] = value if key == "step" else value.to(parameter.device)


def _states(optimizers: Sequence[Optimizer]) -> list[tuple[dict[str, Tensor], Tensor]]:
    """Each parameter and its state, in the order of optimizers and groups."""
    return [
        (optimizer.state[parameter], parameter)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
