"""Builds a deployable Triton model repository from a bundle, for one target.

A version folder of `cascade` holds the thin model.py and a verified copy of the bundle, so that the repository needs
nothing beside it but an installed shortlist; for a GPU also the plans, which `plans` builds. A version is never
changed: another bundle becomes the next number.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from py_compile import PycInvalidationMode
from py_compile import compile as compile_source
from typing import TYPE_CHECKING, Any

from shortlist.bundle import MANIFEST, Bundle
from shortlist.errors import ConfigError
from shortlist.serving.gpu_models import FILTER, PLANS, RANKER, STEPS, gpu_models
from shortlist.serving.held import check_same, held_placement, holds, settled
from shortlist.serving.model_config import (
    Gpus,
    config_pbtxt,
    device_of,
    gpu_ensemble_pbtxt,
    gpus_of,
    plan_pbtxt,
    read_config,
)
from shortlist.serving.standing import check_standing, read_standing, standing_files
from shortlist.serving.tensors import CASCADE, ENSEMBLE, STAGES
from shortlist.stamp import settle

if TYPE_CHECKING:
    from shortlist.serving.rivals import Builder
    from shortlist.serving.where import Where

TARGETS = ("cpu", "gpu")


@dataclass(frozen=True)
class GpuOptions:
    """How a repository for a GPU is made; what is None stays as the repository has it, or is the default."""

    precisions: Mapping[str, str]
    builder: Builder | None  # of its plans; None leaves them to `shortlist serve`
    gpus: Gpus | None = None  # which, and over which the index is spread
    memory: float | None = None  # bytes that may be taken of each
    index: str | None = None  # kind of index
    temp_memory: int | None = None  # MiB of each that FAISS may take to search
    tell: Callable[[str], None] = field(default=lambda _: None)


@dataclass(frozen=True)
class _Part:
    """A model to write: its configuration, and the files of its version but for the bundle."""

    name: str
    config: str
    files: Mapping[str, bytes]


def build_repository(
    bundle_path: Path,
    out: Path,
    target: str = "cpu",
    *,
    instances: int | None = None,
    stages: bool = False,
    gpu: GpuOptions | None = None,
    eligible: Mapping[str, Any] | None = None,
) -> Path:
    """Put the bundle into the repository `out`; returns the version folder that serves it.

    `instances` of each model are by default as the repository has them; in a new one, one per core, on each GPU two.
    `stages` adds the stage models and the ensemble over them; a GPU's repository, for which `gpu` is needed, always has
    its own. `eligible` is a predicate for every answer, by default that of the newest version; {} lifts it. A bundle
    that the newest version already holds, with this predicate, is not added again. Raises BundleError for a damaged
    bundle, ConfigError for a target or folder that cannot be used, options that differ from those of a version that is
    there, a disk that is full, or a GPU that is too small.
    """
    if target not in TARGETS:
        raise ConfigError(f"--target = {target!r}: {' or '.join(TARGETS)} is allowed")
    bundle = Bundle.open(bundle_path)
    _check_folder(out, target)
    held = held_placement(out)
    wanted = settled(instances, gpu if target == "gpu" else None, held)
    newest = max(_numbers(out / CASCADE.name), default=0)
    latest = out / CASCADE.name / str(newest)
    standing = read_standing(latest)
    eligible = standing if eligible is None else eligible
    check_standing(bundle, eligible)
    if target == "gpu":
        assert gpu is not None
        parts = _gpu_parts(bundle, gpu.precisions, *wanted)
    else:
        parts = _cpu_parts(wanted[0], stages)
    parts[0] = replace(parts[0], files={**parts[0].files, **standing_files(eligible)})
    same = newest and eligible == standing and holds(latest, bundle, parts[0].files)
    number = str(newest if same else newest + 1)
    if held and number == str(newest):
        check_same(out, number, wanted, held)
    missing = [part for part in parts if not (out / part.name / number).exists()]
    try:
        _add(bundle, out, missing, number, gpu if target == "gpu" else None)
    except OSError as error:
        raise ConfigError(
            f"{out}: cannot write the repository ({error.strerror or error}); free space or choose another --out"
        ) from error
    return out / CASCADE.name / number


def find_bundle(run: Path) -> Path:
    """The bundle of a run; a bundle's own folder is taken as it is."""
    return run if (run / MANIFEST).is_file() else run / "bundle"


def served_models(repository: Path, stages: bool, where: Where) -> list[str]:
    """The models to load, in order. Raises ConfigError where `stages` needs a GPU that is not used."""
    config = repository / CASCADE.name / "config.pbtxt"
    for_gpu = config.is_file() and device_of(config) == "gpu"
    if stages and for_gpu and where.device != "gpu":
        raise ConfigError("--stages: the stage models of a GPU's repository are TensorRT plans; serve them on a GPU")
    names = [*STEPS, ENSEMBLE.name] if for_gpu else [model.name for model in (*STAGES, ENSEMBLE)]
    return [CASCADE.name, *(names if stages else ())]


def model_source(name: str) -> bytes:
    """The thin model.py of a model."""
    return resources.files("shortlist.model_repository").joinpath(name, "1", "model.py").read_bytes()


def _cpu_parts(instances: int, stages: bool) -> list[_Part]:
    models = (CASCADE, *((*STAGES, ENSEMBLE) if stages else ()))
    return [
        _Part(m.name, config_pbtxt(m, instances), {} if m is ENSEMBLE else {"model.py": model_source(m.name)})
        for m in models
    ]


def _gpu_parts(bundle: Bundle, precisions: Mapping[str, str], instances: int, gpus: Gpus) -> list[_Part]:
    """`cascade` with the graphs of all plans, and the models for teams who call stages alone."""
    from shortlist.serving.plans import alone_profiles, first_graphs, graph_files, make_graphs

    made = make_graphs(bundle, precisions)
    files = {"model.py": model_source(CASCADE.name), **graph_files(made, precisions)}
    graphs = first_graphs(made)
    parts = [_Part(CASCADE.name, config_pbtxt(CASCADE, instances, gpus), files)]
    models = gpu_models(graphs[FILTER], graphs[RANKER])
    profiles = alone_profiles(bundle)
    for name, model in models.items():
        if name in PLANS:
            parts.append(_Part(name, plan_pbtxt(model, len(profiles[name]), gpus), {"model.onnx": graphs[name]}))
        elif name == ENSEMBLE.name:
            parts.append(_Part(name, gpu_ensemble_pbtxt(models), {}))
        else:
            parts.append(_Part(name, config_pbtxt(model), {"model.py": model_source(name)}))
    return parts


def _add(bundle: Bundle, out: Path, parts: Sequence[_Part], number: str, gpu: GpuOptions | None) -> None:
    """Write version `number` of the models aside, then move each into place; `cascade`, with the bundle, first."""
    out.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".export-", dir=out))
    staging.chmod(0o755)
    try:
        for part in parts:
            _write(part, staging / part.name / number, bundle)
        new = any(part.name == CASCADE.name for part in parts)
        if gpu and new:
            _finish(staging, number, gpu)
        for part in parts:
            _publish(staging / part.name, out / part.name, number)
        if gpu and not new:
            _finish(out, number, gpu)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if not any(out.iterdir()):
            out.rmdir()


def _finish(repository: Path, number: str, gpu: GpuOptions) -> None:
    """Build the plans, unless they are left to others; refuse what the GPU has no room for, if possible before."""
    from shortlist.serving.memory import check_memory
    from shortlist.serving.plans import complete

    allowed = gpus_of(read_config(repository / CASCADE.name / "config.pbtxt")).memory
    check_memory(repository, number, allowed)
    if gpu.builder:
        complete(repository, number, gpu.builder, gpu.tell)
        check_memory(repository, number, allowed)


def _write(part: _Part, version: Path, bundle: Bundle) -> None:
    version.mkdir(parents=True)
    for name, content in part.files.items():
        (version / name).parent.mkdir(parents=True, exist_ok=True)
        (version / name).write_bytes(content)
        if name == "model.py":  # else the first start writes the bytecode, and Triton takes the model for a changed one
            compile_source(str(version / name), doraise=True, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
    if part.name == CASCADE.name:
        _copy_bundle(bundle, version / "bundle")
    (version.parent / "config.pbtxt").write_text(part.config, encoding="utf-8")


def _publish(staged: Path, model: Path, number: str) -> None:
    """A new model appears whole; of a known one, first the configuration, then the version."""
    if not model.exists():
        staged.rename(model)
        return
    (staged / "config.pbtxt").replace(model / "config.pbtxt")
    (staged / number).rename(model / number)


def _copy_bundle(bundle: Bundle, target: Path) -> None:
    """Hard links where the disk allows, copies elsewhere; then verified by checksum."""
    target.mkdir()
    for name in [*bundle.files, MANIFEST]:
        try:
            os.link(bundle.path / name, target / name)
        except OSError:
            shutil.copyfile(bundle.path / name, target / name)
    settle(target, [*bundle.files])  # so that what is verified here need not be verified by every server process
    Bundle.open(target)


def _check_folder(out: Path, target: str) -> None:
    """Refuse a folder that holds something else: Triton would try to load it."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out = {out}: it is a file; a folder is allowed")
    if not out.exists():
        return
    others = [e for e in out.iterdir() if not e.name.startswith(".") and e.name != "report.json"]
    foreign = [e.name for e in others if not (e / "config.pbtxt").is_file()]
    if foreign:
        raise ConfigError(
            f"--out = {out}: holds {', '.join(sorted(foreign)[:3])}, which no model repository has; "
            "an empty, new, or earlier exported folder is allowed"
        )
    config = out / CASCADE.name / "config.pbtxt"
    if config.exists() and (held := device_of(config)) != target:
        raise ConfigError(
            f"--out = {out}: holds a repository for the target {held}; {target} needs a folder of its own"
        )


def _numbers(model: Path) -> list[int]:
    return [int(e.name) for e in model.iterdir() if e.name.isdecimal()] if model.is_dir() else []
