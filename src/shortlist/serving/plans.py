"""The TensorRT plans of a GPU repository: of which graphs, in which precision, for which sizes, and where they lie.

A plan stands beside the ONNX graph that it is made of. Those of `cascade` have one size a profile, which CUDA graphs
replay; those that Triton runs by themselves (`filter`, `ranker`) take any size. Building and checking plans is the
business of `shortlist.export.engines`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from shortlist.bundle import Bundle
from shortlist.config import CascadeConfig
from shortlist.errors import BundleError, ConfigError
from shortlist.export.engines import Engine, EngineCache, locked, make_recipe, open_engine
from shortlist.export.samples import bundle_subjects, graph_buckets
from shortlist.export.tensorrt import Backend, Profile, check_capability, device_capability, find_backend
from shortlist.export.twin import calibrated_ranges, float_twin
from shortlist.export.variants import PRECISIONS, is_offered, make_variant
from shortlist.kernels.arrays import import_cupy
from shortlist.serving.gpu_models import PLANS
from shortlist.serving.model_config import ENGINES, PLAN
from shortlist.serving.rivals import (
    CHOSEN,
    FOLDER,
    MEASURE,
    RIVALS,
    Builder,
    Contest,
    asked,
    choose,
    competing,
    notes,
    read_notes,
    rival_path,
)
from shortlist.serving.tensors import CASCADE
from shortlist.serving.triton import default_cache

if TYPE_CHECKING:
    from shortlist.devices.timing import Timer

log = logging.getLogger(__name__)

LOCK = ".lock"
DEFAULT_PRECISIONS = {"user": "fp16", "filter": MEASURE, "ranker": "fp16"}


@dataclass(frozen=True, eq=False)
class Wanted:
    """A plan of the repository: `path` is where it lies, its graph beside it with the suffix .onnx."""

    model: str
    precision: str
    profiles: Sequence[Profile]
    path: Path

    @property
    def graph(self) -> bytes:
        """The ONNX graph."""
        return self.path.with_suffix(".onnx").read_bytes()


def find_builder(folder: Path | None = None) -> Builder:
    """TensorRT for the GPU of this machine; `folder` is where plans are kept (default: our cache folder).

    Raises ConfigError, which says where to go, when there is no GPU or no TensorRT.
    """
    if missing := missing_builder():
        raise ConfigError(
            f"plans are built by TensorRT on the GPU that will run them, and {missing}; export on that machine (the "
            "image of Dockerfile.gpu does so at its first start), or use --engines later: `shortlist serve` builds them"
        )
    return replace(make_builder(find_backend("tensorrt"), device_capability() or 0, folder), timer=_find_timer())


def missing_builder() -> str:
    """What keeps this machine from building plans that it can run; empty where nothing does."""
    if device_capability() is None:
        return "there is no GPU here"
    try:
        find_backend("tensorrt")
    except ConfigError:
        return "TensorRT is not installed here"
    return ""


def make_builder(backend: Backend, sm: int, folder: Path | None = None) -> Builder:
    """`backend` as a builder for compute capability `sm`. Raises ConfigError when it cannot build for that."""
    check_capability(sm, backend)
    return Builder(EngineCache(folder or default_cache() / "engines", backend), sm)


def parse_precisions(given: Sequence[str], held: Mapping[str, str] | None = None) -> dict[str, str]:
    """`filter=int8`-like choices over those `held`, by default over our own; of `filter=int8,fp16` or `filter=measure`
    the GPU takes one.

    Raises ConfigError for an unknown model or precision, or precisions that cannot compete.
    """
    chosen = dict(held or DEFAULT_PRECISIONS)
    for text in given:
        model, _, precision = text.partition("=")
        rivals = competing(precision)
        if model not in chosen or not set(rivals) <= set(PRECISIONS):
            raise ConfigError(
                f"--precision = {text!r}: MODEL=PRECISION is allowed, a model of {', '.join(chosen)} "
                f"in {', '.join(PRECISIONS)}, or {MEASURE}"
            )
        if len(rivals) > 1 and not set(rivals) <= set(RIVALS):
            raise ConfigError(f"--precision = {text!r}: only {', '.join(RIVALS)} can be measured against each other")
        chosen[model] = precision
    return chosen


def held_precisions(repository: Path) -> dict[str, str]:
    """As the newest version of a GPU repository was exported; our own defaults where there is none."""
    versions = [entry for entry in (repository / CASCADE.name).glob("[0-9]*") if entry.name.isdecimal()]
    try:
        newest = max(versions, key=lambda entry: int(entry.name))
        noted = asked((newest / ENGINES / CHOSEN).read_bytes())
    except (OSError, ValueError):  # there is none, or a damaged one, which the next export supersedes
        return dict(DEFAULT_PRECISIONS)
    several = {name: ",".join(rivals) for name, rivals in noted.get(FOLDER, {}).items()}
    return {name: several.get(name, noted.get(name, usual)) for name, usual in DEFAULT_PRECISIONS.items()}


def make_graphs(bundle: Bundle, precisions: Mapping[str, str]) -> dict[str, dict[str, bytes]]:
    """The bundle's graphs as TensorRT gets them: for each model one in every precision that competes for it.

    Raises ConfigError where a precision does not suit a graph.
    """
    quantized = bundle.graph("filter").read_bytes()
    ranges: dict[str, Mapping[str, float]] = {"user": {}, "filter": calibrated_ranges(quantized), "ranker": {}}
    if {"int8", "fp8"} & set(competing(precisions["ranker"])):
        ranges |= {s.model: s.ranges for s in bundle_subjects(bundle, 64) if s.model == "ranker"}
    graphs = {name: bundle.graph(name).read_bytes() for name in precisions} | {"filter": float_twin(quantized)}
    made: dict[str, dict[str, bytes]] = {name: {} for name in precisions}
    for name, precision in ((name, rival) for name, text in precisions.items() for rival in competing(text)):
        try:
            made[name][precision] = make_variant(graphs[name], precision, ranges[name])
        except ValueError as error:
            raise ConfigError(f"--precision = {name}={precision}: {error}; choose another for {name}") from error
    return made


def first_graphs(graphs: Mapping[str, Mapping[str, bytes]]) -> dict[str, bytes]:
    """Of each model the graph that stands in until something is measured."""
    return {name: next(iter(rivals.values())) for name, rivals in graphs.items()}


def graph_files(graphs: Mapping[str, Mapping[str, bytes]], precisions: Mapping[str, str]) -> dict[str, bytes]:
    """What plans are built from, as files of a version of `cascade`; where precisions compete, all their graphs."""
    files = {f"{ENGINES}/{name}.onnx": graph for name, graph in first_graphs(graphs).items()}
    for name, rivals in graphs.items():
        if len(rivals) > 1:
            files |= {str(rival_path(Path(ENGINES), name, rival)): graph for rival, graph in rivals.items()}
    return files | {f"{ENGINES}/{CHOSEN}": notes(precisions)}


def wanted_plans(repository: Path, number: str) -> list[Wanted]:
    """Every plan that version `number` of a GPU repository should have, built or not.

    Raises BundleError when the version does not say in which precisions.
    """
    version = repository / CASCADE.name / number
    bundle = Bundle.open(version / "bundle", verify=False)
    chosen = read_precisions(version / ENGINES)
    exact, any_size = graph_buckets(_config(bundle)), alone_profiles(bundle)
    fused = [Wanted(name, chosen[name], exact[name], version / ENGINES / f"{name}.plan") for name in chosen]
    alone = [Wanted(name, chosen[name], any_size[name], repository / name / number / PLAN) for name in PLANS]
    return [*fused, *(plan for plan in alone if plan.path.with_suffix(".onnx").exists())]


def alone_profiles(bundle: Bundle) -> dict[str, list[Profile]]:
    """The profiles of the plans that Triton runs by themselves: any batch finds one."""
    return graph_buckets(_config(bundle), exact=False)


def read_precisions(engines: Path) -> dict[str, str]:
    """The precision of each graph: as it was asked for, or chosen since."""
    noted = read_notes(engines)
    return {name: noted[name] for name in DEFAULT_PRECISIONS if name in noted}


def complete(
    repository: Path, number: str, builder: Builder, tell: Callable[[str], None] | None = None
) -> list[Engine]:
    """Build what plans are missing, or are of another GPU, TensorRT or graph; those that fit are left alone.

    Where precisions compete, the builder's timer chooses first, once for a kind of GPU and a TensorRT. One process at a
    time does so, also where several share the repository; the others find it done. `tell` is told of every plan before
    it is built, and of every choice. Raises BundleError when TensorRT refuses a graph, ConfigError when the GPU has not
    the precision or the folder cannot be written.
    """
    tell = tell or log.info
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # read-only, where nothing can be changed, or a disk that knows no locks
            waits = f"another process builds the plans of version {number}: waiting for it"
            held.enter_context(locked(repository / CASCADE.name / number / ENGINES / LOCK, lambda: tell(waits)))
        return _completed(repository, number, builder, tell)


def _completed(repository: Path, number: str, builder: Builder, tell: Callable[[str], None]) -> list[Engine]:
    engines = []
    for contest in _contests(repository, number):
        choose(repository / CASCADE.name / number / ENGINES, contest, builder, tell)
    for wanted in wanted_plans(repository, number):
        if not is_offered(wanted.precision, builder.sm):
            raise ConfigError(
                f"--precision = {wanted.model}={wanted.precision}: GPUs of compute capability {builder.sm} do not have "
                "it; fp16 or int8 is allowed"
            )
        graph = wanted.graph
        recipe = make_recipe(wanted.model, wanted.precision, graph, wanted.profiles, builder.sm, builder.cache.backend)
        try:
            engines.append(open_engine(wanted.path, recipe))
        except BundleError:
            tell(f"building {wanted.path.parent.parent.name}/{wanted.path.name}: {wanted.model} {wanted.precision}")
            engine = builder.cache.engine(wanted.model, wanted.precision, graph, wanted.profiles, builder.sm)
            _put(engine.path, wanted.path)
            engines.append(engine)
    return engines


def _contests(repository: Path, number: str) -> Iterable[Contest]:
    """The models for which precisions compete."""
    rivals = read_notes(repository / CASCADE.name / number / ENGINES).get(FOLDER, {})
    wanted = wanted_plans(repository, number) if rivals else []
    for model, names in rivals.items():
        of_model = [plan for plan in wanted if plan.model == model]  # that of `cascade` first
        yield Contest(model, names, of_model[0].profiles, [plan.path.with_suffix(".onnx") for plan in of_model])


def _find_timer() -> Timer | None:
    """What measures plans here; None without CuPy, which leaves that to `shortlist serve`."""
    try:
        import_cupy()
    except ImportError:
        return None
    from shortlist.devices.timing import time_plans

    return time_plans


def _config(bundle: Bundle) -> CascadeConfig:
    return CascadeConfig.model_validate(bundle.metadata["cascade"])


def _put(source: Path, target: Path) -> None:
    """The plan and its manifest at `target`: hard links where the disk allows, copies elsewhere."""
    for suffix in (".plan", ".json"):  # in this order: a manifest vouches for a plan that is there
        staged = target.with_name(f".{target.stem}{suffix}")
        staged.unlink(missing_ok=True)
        try:
            try:
                os.link(source.with_suffix(suffix), staged)
            except OSError:
                shutil.copyfile(source.with_suffix(suffix), staged)
            staged.replace(target.with_suffix(suffix))
        except OSError as error:
            raise ConfigError(
                f"{target}: cannot be written ({error.strerror or error}); plans are built into the repository, "
                "which must be writable until all are there"
            ) from error
