"""Builds a deployable Triton model repository from a bundle, for one target.

A version folder of `cascade` holds the thin model.py and a verified copy of the bundle, so that the repository needs
nothing beside it but an installed shortlist. A version is never changed: another bundle becomes the next number.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from shortlist.bundle import MANIFEST, Bundle
from shortlist.errors import BundleError, ConfigError
from shortlist.serving.model_config import config_pbtxt
from shortlist.serving.tensors import CASCADE, ENSEMBLE, STAGES, Model

TARGETS = ("cpu",)


def build_repository(
    bundle_path: Path, out: Path, target: str = "cpu", *, instances: int = 1, stages: bool = False
) -> Path:
    """Put the bundle into the repository `out`; returns the version folder that serves it.

    `stages` adds the stage models and the ensemble over them. A bundle that the newest version already holds is not
    added again. Raises BundleError for a damaged bundle, ConfigError for a target or folder that cannot be used, or a
    disk that is full.
    """
    if target not in TARGETS:
        raise ConfigError(f"target = {target!r}: not available yet; {', '.join(TARGETS)} is allowed")
    bundle = Bundle.open(bundle_path)
    _check_folder(out)
    newest = max(_numbers(out / CASCADE.name), default=0)
    number = newest if newest and _holds(out / CASCADE.name / str(newest) / "bundle", bundle) else newest + 1
    models = [
        m for m in (CASCADE, *((*STAGES, ENSEMBLE) if stages else ())) if not (out / m.name / str(number)).exists()
    ]
    try:
        _add(bundle, out, models, number, instances)
    except OSError as error:
        raise ConfigError(
            f"{out}: cannot write the repository ({error.strerror or error}); free space or choose another --out"
        ) from error
    return out / CASCADE.name / str(number)


def find_bundle(run: Path) -> Path:
    """The bundle of a run; a bundle's own folder is taken as it is."""
    return run if (run / MANIFEST).is_file() else run / "bundle"


def model_source(model: Model) -> str:
    """The text of a model's thin model.py."""
    file = resources.files("shortlist.model_repository").joinpath(model.name, "1", "model.py")
    return file.read_text(encoding="utf-8")


def _add(bundle: Bundle, out: Path, models: Sequence[Model], number: int, instances: int) -> None:
    """Write version `number` of the models aside, then move each into place; `cascade`, with the bundle, first."""
    out.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".export-", dir=out))
    staging.chmod(0o755)
    try:
        for model in models:
            _write_version(model, staging / model.name / str(number), bundle)
            (staging / model.name / "config.pbtxt").write_text(config_pbtxt(model, instances), encoding="utf-8")
        for model in models:
            _publish(staging / model.name, out / model.name, str(number))
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_version(model: Model, version: Path, bundle: Bundle) -> None:
    version.mkdir(parents=True)
    if model is not ENSEMBLE:
        (version / "model.py").write_text(model_source(model), encoding="utf-8")
    if model is CASCADE:
        _copy_bundle(bundle, version / "bundle")


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


def _check_folder(out: Path) -> None:
    """Refuse a folder that holds something else: Triton would try to load it."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out = {out}: it is a file; a folder is allowed")
    if not out.exists():
        return
    foreign = [e.name for e in out.iterdir() if not e.name.startswith(".") and not (e / "config.pbtxt").is_file()]
    if foreign:
        raise ConfigError(
            f"--out = {out}: holds {', '.join(sorted(foreign)[:3])}, which no model repository has; "
            "an empty, new, or earlier exported folder is allowed"
        )


def _holds(path: Path, bundle: Bundle) -> bool:
    """Whether the bundle at `path` is whole and has the contents of `bundle`."""
    try:
        held = Bundle.open(path)
    except BundleError:
        return False
    return held.version == bundle.version and held.files == bundle.files


def _numbers(model: Path) -> list[int]:
    return [int(e.name) for e in model.iterdir() if e.name.isdecimal()] if model.is_dir() else []
