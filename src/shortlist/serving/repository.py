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
from typing import TYPE_CHECKING

from shortlist.bundle import MANIFEST, Bundle
from shortlist.errors import BundleError, ConfigError
from shortlist.serving.gpu_models import FILTER, PLANS, RANKER, STEPS, gpu_models
from shortlist.serving.model_config import ENGINES, Gpus, config_pbtxt, device_of, gpu_ensemble_pbtxt, plan_pbtxt
from shortlist.serving.process import usable_cores
from shortlist.serving.tensors import CASCADE, ENSEMBLE, STAGES

if TYPE_CHECKING:
    from shortlist.serving.rivals import Builder
    from shortlist.serving.where import Where

TARGETS = ("cpu", "gpu")
GPU_INSTANCES = 2  # one computes while the other copies; each holds its own tables


@dataclass(frozen=True)
class GpuOptions:
    """How a repository for a GPU is made."""

    precisions: Mapping[str, str]
    builder: Builder | None  # of its plans; None leaves them to `shortlist serve`
    memory: float | None = None  # bytes that it may take of each GPU
    gpus: Gpus = field(default_factory=Gpus)
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
) -> Path:
    """Put the bundle into the repository `out`; returns the version folder that serves it.

    `instances` of each model are by default one per core, on each GPU two. `stages` adds the stage models and the
    ensemble over them; a GPU's repository, for which `gpu` is needed, always has its own. A bundle that the newest
    version already holds is not added again. Raises BundleError for a damaged bundle, ConfigError for a target or
    folder that cannot be used, a disk that is full, or a GPU that is too small.
    """
    if target not in TARGETS:
        raise ConfigError(f"target = {target!r}: {' or '.join(TARGETS)} is allowed")
    bundle = Bundle.open(bundle_path)
    _check_folder(out, target)
    if target == "gpu":
        assert gpu is not None
        parts = _gpu_parts(bundle, gpu, instances or GPU_INSTANCES)
    else:
        parts = _cpu_parts(instances or usable_cores(), stages)
    newest = max(_numbers(out / CASCADE.name), default=0)
    number = str(newest if newest and _holds(out / CASCADE.name / str(newest), bundle, parts[0]) else newest + 1)
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


def _gpu_parts(bundle: Bundle, gpu: GpuOptions, instances: int) -> list[_Part]:
    """`cascade` with the graphs of all plans, and the models for teams who call stages alone."""
    from shortlist.serving.plans import alone_profiles, first_graphs, graph_files, make_graphs

    made = make_graphs(bundle, gpu.precisions)
    files = {"model.py": model_source(CASCADE.name), **graph_files(made, gpu.precisions)}
    graphs = first_graphs(made)
    gpus = replace(gpu.gpus, memory=gpu.memory)
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

    check_memory(repository, number, gpu.memory)
    if gpu.builder:
        complete(repository, number, gpu.builder, gpu.tell)
        check_memory(repository, number, gpu.memory)


def _write(part: _Part, version: Path, bundle: Bundle) -> None:
    version.mkdir(parents=True)
    for name, content in part.files.items():
        (version / name).parent.mkdir(parents=True, exist_ok=True)
        (version / name).write_bytes(content)
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


def _holds(version: Path, bundle: Bundle, part: _Part) -> bool:
    """Whether a version of `cascade` is whole, with the contents of `bundle` and the same graphs."""
    try:
        held = Bundle.open(version / "bundle")
        same = _same_graphs(version, part.files)
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


def _numbers(model: Path) -> list[int]:
    return [int(e.name) for e in model.iterdir() if e.name.isdecimal()] if model.is_dir() else []
