"""Precisions that compete for a model of a GPU repository: the graphs of all are kept, and the GPU decides by timing.

Rivals take tensors of the same types, so that the models' configurations hold for whichever is taken. The first of
them stands in until a GPU has measured; another kind of GPU or another TensorRT measures again.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shortlist.errors import BundleError, ConfigError
from shortlist.export.engines import EngineCache
from shortlist.export.tensorrt import Profile
from shortlist.export.variants import is_offered

if TYPE_CHECKING:
    from shortlist.devices.timing import Timer

MEASURE = "measure"
RIVALS = ("int8", "fp16", "fp8")  # plans of these take the same types
MEASURED = ("int8", "fp16")  # what `measure` stands for
CHOSEN, FOLDER = "precisions.json", "rivals"
USUAL_BATCH, USUAL_WEIGHT = 8, 0.5  # of the usual number of candidates; the other buckets share the rest evenly


@dataclass(frozen=True)
class Builder:
    """Who builds plans, for which compute capability (89 is 8.9), and where they are kept for the next time."""

    cache: EngineCache
    sm: int
    timer: Timer | None = None  # of plans on that GPU; None where it, or CuPy, is not here


@dataclass(frozen=True, eq=False)
class Contest:
    """A model for which rivals compete, and every place where the graph of the one taken lies."""

    model: str
    rivals: Sequence[str]
    profiles: Sequence[Profile]
    places: Sequence[Path]


def competing(precision: str) -> tuple[str, ...]:
    """The rivals that a choice of `--precision` names, the first to stand in; one where nothing competes."""
    return MEASURED if precision == MEASURE else tuple(dict.fromkeys(precision.split(",")))


def notes(precisions: Mapping[str, str]) -> bytes:
    """The content of precisions.json before anything is measured."""
    several = {name: rivals for name, text in precisions.items() if len(rivals := competing(text)) > 1}
    noted: dict[str, Any] = {name: competing(text)[0] for name, text in precisions.items()}
    return _dumped(noted | ({FOLDER: several} if several else {}))


def asked(content: bytes) -> dict[str, Any]:
    """What a precisions.json says of the export alone, without what was measured since."""
    noted: dict[str, Any] = json.loads(content)
    noted.pop("measured", None)
    return noted | {name: rivals[0] for name, rivals in noted.get(FOLDER, {}).items()}


def read_notes(engines: Path) -> dict[str, Any]:
    """precisions.json: the precision of each graph, and of those that compete the rivals and their timings."""
    try:
        noted: dict[str, Any] = json.loads((engines / CHOSEN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{engines / CHOSEN}: cannot be read ({error}); export again into a new folder") from error
    return noted


def rival_path(engines: Path, model: str, precision: str) -> Path:
    """Where the graph of a rival lies."""
    return engines / FOLDER / f"{model}-{precision}.onnx"


def choose(engines: Path, contest: Contest, builder: Builder, tell: Callable[[str], None]) -> None:
    """Put the fastest rival's graph into its places, and note why; measured only where this GPU has not been asked yet.

    Without a timer all stays as it is. Raises BundleError when no rival builds or one does not run, ConfigError when
    the repository cannot be written.
    """
    asked_of = {"sm": builder.sm, "tensorrt": builder.cache.backend.version}
    noted = read_notes(engines)
    measured = noted.get("measured", {}).get(contest.model, {})
    if asked_of.items() <= measured.items():
        fastest = noted[contest.model]
    elif builder.timer is None or not any(is_offered(rival, builder.sm) for rival in contest.rivals):
        return
    else:
        timings = _timings(engines, contest, builder, tell)
        fastest, measured = _judged(timings, contest)
        tell(f"{contest.model}: {_said(measured['score_ms'])} measured, {fastest} is taken")
        noted["measured"] = noted.get("measured", {}) | {contest.model: asked_of | measured}
        noted[contest.model] = fastest
    graph = rival_path(engines, contest.model, fastest).read_bytes()
    for place in contest.places:
        _replace(place, graph)
    _replace(engines / CHOSEN, _dumped(noted))  # last: an interrupted choice is made again


def _timings(engines: Path, contest: Contest, builder: Builder, tell: Callable[[str], None]) -> dict[str, list[float]]:
    """Milliseconds of each rival that builds, for each profile. Raises BundleError when none does."""
    assert builder.timer is not None
    refused: list[BundleError] = []
    with tempfile.TemporaryDirectory(prefix="shortlist-rivals-") as scratch:
        folders = {}
        for rival in contest.rivals:
            if not is_offered(rival, builder.sm):
                continue
            tell(f"building {contest.model} {rival}, to be measured")
            graph = rival_path(engines, contest.model, rival).read_bytes()
            try:
                engine = builder.cache.engine(contest.model, rival, graph, contest.profiles, builder.sm)
            except BundleError as error:
                tell(f"{contest.model} {rival} does not compete: {error}")
                refused.append(error)
                continue
            folders[rival] = Path(scratch, rival)
            folders[rival].mkdir()
            (folders[rival] / f"{contest.model}.onnx").write_bytes(graph)
            for suffix in (".plan", ".json"):
                shutil.copyfile(engine.path.with_suffix(suffix), folders[rival] / f"{contest.model}{suffix}")
        if not folders:
            raise refused[-1]
        return builder.timer(folders, contest.model)


def _judged(timings: Mapping[str, Sequence[float]], contest: Contest) -> tuple[str, dict[str, Any]]:
    """The rival with the lowest weighted geometric mean, in which a bucket counts by ratio and not by its size."""
    weights = bucket_weights(contest.profiles)
    scores = {
        rival: math.exp(sum(w * math.log(max(t, 1e-9)) for w, t in zip(weights, times, strict=True)))
        for rival, times in timings.items()
    }
    labels = [f"{profile['batch'][2]} x {profile['candidates'][2]}" for profile in contest.profiles]
    found = {
        "usual_batch": USUAL_BATCH,
        "usual_weight": USUAL_WEIGHT,
        "score_ms": {rival: round(score, 6) for rival, score in scores.items()},
        "bucket_ms": {
            rival: {label: round(t, 6) for label, t in zip(labels, times, strict=True)}
            for rival, times in timings.items()
        },
    }
    return min(scores, key=lambda rival: scores[rival]), found


def bucket_weights(profiles: Sequence[Profile]) -> list[float]:
    """How much each bucket counts: half of all is the usual batch with the usual number of candidates."""
    fewest = min(profile["candidates"][2] for profile in profiles)
    usual = [p["batch"][2] == USUAL_BATCH and p["candidates"][2] == fewest for p in profiles]
    if usual.count(True) != 1 or len(profiles) == 1:
        return [1 / len(profiles)] * len(profiles)
    return [USUAL_WEIGHT if is_usual else (1 - USUAL_WEIGHT) / (len(profiles) - 1) for is_usual in usual]


def _said(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{rival} {score:.4f} ms" for rival, score in scores.items())


def _dumped(noted: Mapping[str, Any]) -> bytes:
    return json.dumps(noted, indent=1).encode()


def _replace(path: Path, content: bytes) -> None:
    """Whole or not at all, and only where it differs: a repository that is complete may be read-only."""
    try:
        if path.read_bytes() == content:
            return
        staged = path.with_name(f".{path.name}")
        staged.write_bytes(content)
        staged.replace(path)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written ({error.strerror or error}); the choice of a precision is kept in the "
            "repository, which must be writable until it is made"
        ) from error
