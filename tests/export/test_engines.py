"""A plan is used when it is exactly what is asked for and whole; otherwise it is built again or refused."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from shortlist.errors import BundleError, ConfigError
from shortlist.export import engines
from shortlist.export.engines import Engine, EngineCache, make_recipe, open_engine
from shortlist.export.samples import Subject
from shortlist.export.tensorrt import Backend, Built, bucket_profiles, find_backend

PROFILES = bucket_profiles([100], batches=[1])


@pytest.fixture(scope="module")
def backend() -> Backend:
    return find_backend("tensorrt_rtx")


@pytest.fixture
def cache(tmp_path: Path, backend: Backend) -> EngineCache:
    return EngineCache(tmp_path / "engines", backend)


@pytest.fixture
def strict(cache: EngineCache) -> EngineCache:
    """The same folder, for a process that must not build."""
    return EngineCache(cache.folder, cache.backend, may_build=False)


@pytest.fixture
def engine(cache: EngineCache, filter_subject: Subject) -> Engine:
    return cache.engine("filter", "fp32", filter_subject.graph, PROFILES, 89)


def _again(cache: EngineCache, subject: Subject) -> Engine:
    return cache.engine("filter", "fp32", subject.graph, PROFILES, 89)


def test_the_first_request_builds(engine: Engine) -> None:
    assert engine.built
    assert engine.path.stat().st_size == engine.bytes


def test_the_second_finds_it(engine: Engine, strict: EngineCache, filter_subject: Subject) -> None:
    found = _again(strict, filter_subject)
    assert found == replace(engine, built=False)


@pytest.mark.parametrize("change", ["model", "precision", "sm", "profiles", "graph"])
def test_anything_else_is_another_plan(
    change: str, engine: Engine, strict: EngineCache, filter_subject: Subject, float_ranker: bytes
) -> None:
    asked = {
        "model": "filter",
        "precision": "fp32",
        "graph": filter_subject.graph,
        "profiles": PROFILES,
        "sm": 89,
    }
    others = {
        "model": "other",
        "precision": "fp16",
        "graph": filter_subject.graph + b"\x10\x00",  # a field repeated: other bytes
        "profiles": bucket_profiles([100], batches=[2]),
        "sm": 86,
    }
    with pytest.raises(BundleError, match="no such plan"):
        strict.engine(**{**asked, change: others[change]})  # type: ignore[arg-type]


def test_a_plan_of_another_version_is_refused_and_named(
    engine: Engine, strict: EngineCache, filter_subject: Subject
) -> None:
    newer = EngineCache(strict.folder, replace(strict.backend, version="9.9"), may_build=False)
    with pytest.raises(BundleError, match=r"version = 1\.\S+ instead of 9\.9\); build it on this machine with"):
        _again(newer, filter_subject)


def test_a_folder_without_plans_says_so(strict: EngineCache, filter_subject: Subject) -> None:
    with pytest.raises(BundleError, match="none for filter in fp32"):
        _again(strict, filter_subject)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [_flip, _cut, Path.unlink])
def test_a_damaged_plan_is_never_used(
    damage: object, engine: Engine, strict: EngineCache, filter_subject: Subject
) -> None:
    damage(engine.path)  # type: ignore[operator]
    with pytest.raises(BundleError, match=engine.path.name):
        _again(strict, filter_subject)


def test_a_damaged_plan_is_built_again(engine: Engine, cache: EngineCache, filter_subject: Subject) -> None:
    _flip(engine.path)
    assert _again(cache, filter_subject).built
    assert not _again(cache, filter_subject).built


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[" * 100_000, b"null", b"{}", b'{"format_version": 2}', b"\xff\xfe"],
    ids=["empty", "cut", "nested", "null", "nothing", "newer", "no text"],
)
def test_a_damaged_manifest_is_refused(
    content: bytes, engine: Engine, strict: EngineCache, filter_subject: Subject
) -> None:
    engine.path.with_suffix(".json").write_bytes(content)
    with pytest.raises(BundleError, match="is no manifest of a plan"):
        _again(strict, filter_subject)


def test_a_plan_under_the_name_of_another_is_refused(engine: Engine) -> None:
    with pytest.raises(BundleError, match="another plan than asked for: sm = 89 instead of 80; build it again"):
        open_engine(engine.path, replace(engine.recipe, sm=80))


def test_a_manifest_says_what_the_plan_is(engine: Engine) -> None:
    manifest = json.loads(engine.path.with_suffix(".json").read_text())
    assert (manifest["recipe"]["sm"], manifest["recipe"]["profiles"]) == (89, [{"pairs": [100, 100, 100]}])
    assert manifest["layers"][0].keys() == {"name", "type", "inputs", "outputs"}


def test_nothing_half_written_stays(engine: Engine) -> None:
    assert not [path.name for path in engine.path.parent.iterdir() if path.name.startswith(".")]


def test_a_refused_graph_leaves_no_plan(cache: EngineCache, cpu_filter: bytes) -> None:
    with pytest.raises(BundleError, match="cannot parse"):
        cache.engine("filter", "int8", cpu_filter, PROFILES, 89)
    assert not list(cache.folder.glob("*.plan"))


def test_two_at_once_build_once(cache: EngineCache, filter_subject: Subject) -> None:
    built: list[bool] = []
    threads = [threading.Thread(target=lambda: built.append(_again(cache, filter_subject).built)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(built) == [False, False, False, True]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, backend: Backend, filter_subject: Subject) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match=f"{file}: cannot keep plans .File exists.; free space or choose"):
        _again(EngineCache(file, backend), filter_subject)


@pytest.fixture
def timings(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Timing caches handed to a builder that measures more with every build."""
    handed: list[bytes] = []

    def build(graph: bytes, profiles: object, sm: int, backend: Backend, timing: bytes) -> Built:
        handed.append(timing)
        return Built(b"plan", (), 0.1, timing + b"!")

    monkeypatch.setattr(engines, "build", build)
    cache.backend = Backend("tensorrt", "10.11", SimpleNamespace())
    return handed


def test_what_a_build_measured_is_handed_to_the_next(
    timings: list[bytes], cache: EngineCache, filter_subject: Subject
) -> None:
    for precision in ("fp32", "fp16", "int8"):
        cache.engine("filter", precision, filter_subject.graph, PROFILES, 89)
    assert timings == [b"", b"!", b"!!"]


def test_measurements_of_another_gpu_are_not(timings: list[bytes], cache: EngineCache, filter_subject: Subject) -> None:
    for sm in (89, 86):
        cache.engine("filter", "fp32", filter_subject.graph, PROFILES, sm)
    assert timings == [b"", b""]


def test_damaged_measurements_are_left_out(timings: list[bytes], cache: EngineCache, filter_subject: Subject) -> None:
    cache.engine("filter", "fp32", filter_subject.graph, PROFILES, 89)
    (file,) = cache.folder.glob("*.timing")
    _flip(file)
    cache.engine("filter", "fp16", filter_subject.graph, PROFILES, 89)
    assert timings == [b"", b""]


def test_a_recipe_has_only_the_axes_of_its_graph(backend: Backend, filter_subject: Subject) -> None:
    recipe = make_recipe("filter", "fp32", filter_subject.graph, bucket_profiles([100], 50, [2]), 89, backend)
    assert recipe.profiles == [{"pairs": [200, 200, 200]}]
