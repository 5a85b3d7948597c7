"""What a model repository holds already, and how an export's options go together with it.

A version that is there stays as it was exported: options that are left out are taken from it, and those that differ
are refused. Writing is the business of `repository`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from shortlist.bundle import Bundle
from shortlist.errors import BundleError, ConfigError
from shortlist.serving.model_config import ENGINES, Gpus, check_index, gpus_of, read_config
from shortlist.serving.process import usable_cores
from shortlist.serving.tensors import CASCADE

if TYPE_CHECKING:
    from shortlist.serving.repository import GpuOptions

GPU_INSTANCES = 2  # one computes while the other copies; each holds its own tables
OPTIONS = {  # of `shortlist export`, by what they set
    "instances": "--instances",
    "numbers": "--gpus",
    "spread": "--index-gpus",
    "memory": "--gpu-memory",
    "index": "--gpu-index",
    "temp_memory": "--gpu-temp-memory",
}
Placed = tuple[int, Gpus]
"""Instances of a model, and on which GPUs and how."""


def held_placement(out: Path) -> Placed | None:
    """How the repository that is there, if any, places its instances."""
    path = out / CASCADE.name / "config.pbtxt"
    if not path.exists():
        return None
    config = read_config(path)
    return int(config.instance_group[0].count), gpus_of(config)


def settled(instances: int | None, gpu: GpuOptions | None, held: Placed | None) -> Placed:
    """What was asked for, and of the rest what is held. Raises ConfigError where the two do not go together."""
    count, has = held or (GPU_INSTANCES if gpu else usable_cores(), Gpus())
    if gpu is None:
        return instances or count, has
    spread = gpu.gpus or has
    gpus = Gpus(
        spread.numbers,
        spread.spread,
        has.memory if gpu.memory is None else float(round(gpu.memory)),  # as it will be read back
        gpu.index or has.index,
        gpu.temp_memory or has.temp_memory,
    )
    check_index(gpus)
    return instances or count, gpus


def check_same(out: Path, number: str, wanted: Placed, held: Placed) -> None:
    """Raise ConfigError where options differ from those of a version that is there already."""
    has = {"instances": held[0], **vars(held[1])}
    asked = {"instances": wanted[0], **vars(wanted[1])}
    different = [f"{OPTIONS[k]} = {_said(asked[k])} (it has {_said(has[k])})" for k in asked if asked[k] != has[k]]
    if different:
        raise ConfigError(
            f"{', '.join(different)}: {out} holds this bundle already, as version {number}, which stays as it was "
            "exported; leave the option out, or export into another --out"
        )


def _said(value: object) -> str:
    """An option's value as it is given: GPUs with commas, memory in GB."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value / 1e9:g}" if isinstance(value, float) else str(value or "none")


def holds(version: Path, bundle: Bundle, files: Mapping[str, bytes]) -> bool:
    """Whether a version of `cascade` is whole, with the contents of `bundle` and the same graphs."""
    try:
        held = Bundle.open(version / "bundle")
        same = _same_graphs(version, files)
    except (BundleError, OSError, ValueError):
        return False
    return same and held.version == bundle.version and held.files == bundle.files


def _same_graphs(version: Path, files: Mapping[str, bytes]) -> bool:
    """Whether the graphs are the same, whichever of several precisions was chosen since; an upgrade changes none."""
    from shortlist.serving.rivals import CHOSEN, FOLDER, asked

    notes = f"{ENGINES}/{CHOSEN}"
    if notes not in files:
        return True
    wanted = asked(files[notes])
    changing = {"model.py", notes, *(f"{ENGINES}/{model}.onnx" for model in wanted.get(FOLDER, {}))}
    return asked((version / notes).read_bytes()) == wanted and all(
        (version / name).read_bytes() == content for name, content in files.items() if name not in changing
    )
