"""Where the stages run: on the CPU or on a GPU, behind one small Protocol, so that a stage is written once.

A device owns what differs: resident arrays, copies, models, the index, and the kernels that would otherwise wait for
the GPU. `choose_device` picks one; each instance of the cascade has its own, since it shares no memory and no stream.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from shortlist.bundle import Bundle
from shortlist.errors import ConfigError
from shortlist.types import Eligible

if TYPE_CHECKING:
    from shortlist.devices.faiss_gpu import Placement

log = logging.getLogger(__name__)

Wanted = Literal["cpu", "gpu", "auto"]


class Scorer(Protocol):
    """A model, ready to run."""

    def __call__(self, inputs: Mapping[str, Any]) -> Any:
        """Its first output. What it returns may be overwritten by its next call."""
        ...

    def dtype(self, name: str) -> str | None:
        """The type that the input `name` should have; None where the bundle's own is right."""
        ...


class Index(Protocol):
    """Nearest neighbours by inner product."""

    def search(self, vectors: Any, k: int, *, nprobe: int | None = None, eligible: Eligible | None = None) -> Any:
        """The rows [B, k] nearest to `vectors` float32 [B, D], best first, -1 where there are fewer.

        `nprobe` is how many cells are searched, where the index has any, instead of its own number. Of `eligible` rows
        alone where given, for which `prepare` must have said True.
        """
        ...

    def prepare(self, eligible: Eligible) -> bool:
        """Make ready to search among `eligible`; False where every eligible row should rather be scored."""
        ...


class Device(Protocol):
    """One instance's hold on a device. Not thread-safe."""

    name: str  # cpu or gpu
    note: str  # why `auto` did not take the GPU, else empty
    xp: Any  # numpy or cupy

    def keep(self, array: Any) -> Any:
        """A table of the bundle, on the device for good."""
        ...

    def renew(self, kept: Any, array: Any, rows: slice) -> None:
        """Have `kept`, which `keep` made of `array`, hold these rows as they are there now."""
        ...

    def put(self, *arrays: Any) -> tuple[Any, ...]:
        """What a batch of requests brings, on the device, in one copy."""
        ...

    def fetch(self, *arrays: Any) -> tuple[Any, ...]:
        """Results for the host, in one copy: the only time the host waits.

        Raises RuntimeError where a kernel has refused what it was given since the last call.
        """
        ...

    def scorer(self, bundle: Bundle, graph: str) -> Scorer:
        """The model `graph` of `bundle`. Raises BundleError when it cannot be loaded."""
        ...

    def index(self, bundle: Bundle, nprobe: int | None) -> Index:
        """The index of `bundle`; `nprobe` cells are searched where it is an inverted file."""
        ...

    def warm_up(self) -> None:
        """Compile what the warm-up of the stages would not reach."""
        ...

    @property
    def now(self) -> Callable[[], Any]:
        """now(): the moment when the device has done all that it was given so far. Waits for nothing."""
        ...

    @property
    def seconds(self) -> Callable[[Any, Any], float]:
        """seconds(start, end): between two moments before the last `fetch`."""
        ...

    @property
    def fuse_features(self) -> Callable[..., Any]:
        """`shortlist.kernels.fuse_features`, without waiting; what it refuses is raised by `fetch`. So are the others:
        fuse_features(items, rows, users, channels, side, columns)."""
        ...

    @property
    def mmr(self) -> Callable[..., Any]:
        """mmr(items, rows, relevance, trade_off, k, groups=…, max_per_group=…)."""
        ...

    @property
    def dpp(self) -> Callable[..., Any]:
        """dpp(items, rows, relevance, trade_off, k, groups=…, max_per_group=…)."""
        ...


def choose_device(wanted: Wanted, engines: Path | None = None, placement: Placement | None = None) -> Device:
    """The device called `wanted`; `auto` is the GPU where there is one, else the CPU, whose `note` says why.

    `engines` is the folder of the GPU's TensorRT plans, `placement` says which GPU (the first where it is None), and
    over which the index is spread. Raises ConfigError when the GPU is demanded and cannot be
    used, saying what is missing.
    """
    from shortlist.devices.cpu import Cpu

    if wanted not in ("cpu", "gpu", "auto"):
        raise ConfigError(f"--device = {wanted!r}: cpu, gpu or auto is allowed")
    if wanted == "cpu":
        return Cpu()
    from shortlist.devices.probe import what_is_missing

    missing = what_is_missing(engines, placement.gpus if placement else (0,))
    if not missing and engines is not None:
        from shortlist.devices.gpu import open_gpu

        return open_gpu(engines, placement)
    if wanted == "gpu":
        raise ConfigError(f"--device = 'gpu': {missing}; use a machine with a GPU, or choose cpu or auto")
    log.warning("Serving on the CPU: %s", missing)
    return Cpu(missing)
