"""A repository for a GPU, file by file. TensorRT for RTX, which needs no GPU, stands in for the target's builder."""

import json
import shutil
from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as proto

from shortlist.bundle import Bundle
from shortlist.errors import BundleError, ConfigError
from shortlist.export.engines import Manifest
from shortlist.export.tensorrt import find_backend
from shortlist.serving import plans
from shortlist.serving.gpu_models import STEPS
from shortlist.serving.plans import (
    Builder,
    complete,
    find_builder,
    make_builder,
    parse_precisions,
    wanted_plans,
)
from shortlist.serving.repository import GpuOptions, build_repository

STUBS = ("before_filter", "before_ranker", "after_ranker")
GRAPHS = ("user", "filter", "ranker")
ONNX_TYPES = {
    onnx.TensorProto.FLOAT: proto.TYPE_FP32,
    onnx.TensorProto.FLOAT16: proto.TYPE_FP16,
    onnx.TensorProto.INT8: proto.TYPE_INT8,
    onnx.TensorProto.INT64: proto.TYPE_INT64,
}


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return make_builder(find_backend("tensorrt_rtx"), 89, tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def built(planted_run: Path, builder: Builder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete repository, not to be changed."""
    out = tmp_path_factory.mktemp("built") / "out"
    build_repository(planted_run / "bundle", out, "gpu", gpu=GpuOptions(parse_precisions([]), builder))
    return out


@pytest.fixture
def repository(built: Path, tmp_path: Path) -> Path:
    """One to change."""
    return Path(shutil.copytree(built, tmp_path / "out"))


def config(repository: Path, model: str) -> proto.ModelConfig:
    return text_format.Parse((repository / model / "config.pbtxt").read_text(), proto.ModelConfig())


def export(run: Path, out: Path, builder: Builder | None, *precisions: str) -> Path:
    return build_repository(run / "bundle", out, "gpu", gpu=GpuOptions(parse_precisions(precisions), builder))


def test_every_file_is_there_and_no_other(built: Path) -> None:
    others = {"bundle", "__pycache__"}
    files = [path for path in built.rglob("*") if path.is_file() and not others.intersection(path.parts)]
    found = {str(path.relative_to(built)) for path in files if path.name != ".lock"}
    engines = {f"cascade/1/engines/{name}.{kind}" for name in GRAPHS for kind in ("onnx", "plan", "json")}
    alone = {f"{name}/1/model.{kind}" for name in ("filter", "ranker") for kind in ("onnx", "plan", "json")}
    sources = {f"{name}/1/model.py" for name in ("cascade", *STUBS)}
    configs = {f"{name}/config.pbtxt" for name in ("cascade", "stages", *STEPS)}
    rivals = {f"cascade/1/engines/rivals/filter-{precision}.onnx" for precision in ("int8", "fp16")}
    assert found == engines | alone | sources | configs | rivals | {"cascade/1/engines/precisions.json"}


def test_the_bundle_is_the_one_of_the_cpu_repository(built: Path, planted_run: Path, tmp_path: Path) -> None:
    cpu = build_repository(planted_run / "bundle", tmp_path / "cpu")
    assert Bundle.open(built / "cascade" / "1" / "bundle").files == Bundle.open(cpu / "bundle").files


@pytest.mark.parametrize("model", ["cascade", "stages", *STEPS])
def test_every_configuration_is_one_for_triton(model: str, built: Path) -> None:
    read = config(built, model)
    assert read.name == model
    assert (read.platform or read.backend) == {
        "stages": "ensemble",
        "filter": "tensorrt_plan",
        "ranker": "tensorrt_plan",
    }.get(model, "python")


@pytest.mark.parametrize("model", ["filter", "ranker"])
def test_a_plans_tensors_are_those_of_its_graph(model: str, built: Path) -> None:
    read, graph = config(built, model), onnx.load(built / model / "1" / "model.onnx").graph
    declared = {t.name: (t.data_type, list(t.dims)) for t in (*read.input, *read.output)}
    assert read.max_batch_size == 0  # dims are whole
    assert declared == {
        value.name: (
            ONNX_TYPES[value.type.tensor_type.elem_type],
            [-1 if axis.dim_param else axis.dim_value for axis in value.type.tensor_type.shape.dim],
        )
        for value in (*graph.input, *graph.output)
    }


@pytest.mark.parametrize("model", ["filter", "ranker"])
def test_triton_may_use_every_profile_of_a_plan(model: str, built: Path) -> None:
    manifest = Manifest.model_validate_json((built / model / "1" / "model.json").read_bytes())
    (group,) = config(built, model).instance_group
    assert list(group.profile) == [str(place) for place in range(len(manifest.recipe.profiles))]
    assert group.kind == proto.ModelInstanceGroup.KIND_GPU


@pytest.mark.parametrize(("model", "axis"), [("filter", "pairs"), ("ranker", "batch")])
def test_a_plan_that_triton_runs_takes_every_size(model: str, axis: str, built: Path) -> None:
    manifest = Manifest.model_validate_json((built / model / "1" / "model.json").read_bytes())
    (width, *_) = {tuple(p.get("candidates", ())) for p in manifest.recipe.profiles}
    sizes = [p[axis] for p in manifest.recipe.profiles if tuple(p.get("candidates", ())) == width]
    reached = {size for least, _, most in sizes for size in range(least, most + 1)}
    assert set(range(1, 65)) <= reached


@pytest.mark.parametrize("model", GRAPHS)
def test_the_cascades_plans_have_one_size_a_bucket(model: str, built: Path) -> None:
    manifest = Manifest.model_validate_json((built / "cascade" / "1" / "engines" / f"{model}.json").read_bytes())
    assert all(least == most for profile in manifest.recipe.profiles for least, _, most in profile.values())


@pytest.mark.parametrize("model", ["filter", "ranker"])
def test_a_plan_and_the_cascades_are_of_one_graph(model: str, built: Path) -> None:
    fused = (built / "cascade" / "1" / "engines" / f"{model}.onnx").read_bytes()
    assert (built / model / "1" / "model.onnx").read_bytes() == fused


def test_the_cascade_runs_on_the_gpu_with_its_engines(built: Path) -> None:
    read = config(built, "cascade")
    (group,) = read.instance_group
    assert (group.kind, group.count) == (proto.ModelInstanceGroup.KIND_GPU, 2)
    assert {name: value.string_value for name, value in read.parameters.items()} == {
        "device": "gpu",
        "engines": "engines",
    }


def test_each_step_of_the_ensemble_reads_what_an_earlier_one_made(built: Path) -> None:
    ensemble = config(built, "stages")
    made = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        model = config(built, step.model_name)
        assert set(step.input_map) == {tensor.name for tensor in model.input}
        for tensor in model.input:
            kind, dims = made[step.input_map[tensor.name]]
            assert kind == tensor.data_type
            assert all(a in (b, -1) or b == -1 for a, b in zip(dims, tensor.dims, strict=True))
        made |= {step.output_map[t.name]: (t.data_type, list(t.dims)) for t in model.output}
    assert {tensor.name for tensor in ensemble.output} <= set(made)


def test_precisions_can_be_chosen(planted_run: Path, tmp_path: Path) -> None:
    version = export(planted_run, tmp_path / "out", None, "filter=fp16", "ranker=int8")
    assert json.loads((version / "engines" / "precisions.json").read_text()) == {
        "user": "fp16",
        "filter": "fp16",
        "ranker": "int8",
    }
    features = {t.name: t.data_type for t in config(tmp_path / "out", "filter").input}["features"]
    assert features == proto.TYPE_FP16


@pytest.mark.parametrize("given", ["filter=int3", "tower=fp16", "fp16", "filter="])
def test_an_unknown_precision_or_model_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match=rf"--precision = '{given}': MODEL=PRECISION is allowed"):
        parse_precisions([given])


def test_a_precision_that_suits_no_product_is_refused(planted_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--precision = user=int8: .*choose another for user"):
        export(planted_run, tmp_path / "out", None, "user=int8")


def test_a_precision_that_the_gpu_has_not_is_refused(planted_run: Path, tmp_path: Path, builder: Builder) -> None:
    older = Builder(builder.cache, 80)
    with pytest.raises(ConfigError, match="filter=fp8: GPUs of compute capability 80 do not have it"):
        export(planted_run, tmp_path / "out", older, "filter=fp8")
    assert not (tmp_path / "out").exists()


def test_exporting_again_builds_and_changes_nothing(planted_run: Path, repository: Path, builder: Builder) -> None:
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*") if path.is_file()}
    told: list[str] = []
    build_repository(
        planted_run / "bundle", repository, "gpu", gpu=GpuOptions(parse_precisions([]), builder, tell=told.append)
    )
    assert told == []
    assert {path: path.stat().st_mtime_ns for path in repository.rglob("*") if path.is_file()} == before


def test_another_precision_becomes_the_next_version(planted_run: Path, repository: Path, builder: Builder) -> None:
    version = export(planted_run, repository, builder, "filter=fp16")
    assert version.name == "2"
    assert (repository / "filter" / "2" / "model.plan").is_file()


def test_plans_can_be_left_for_later_and_are_then_the_same(
    planted_run: Path, built: Path, tmp_path: Path, builder: Builder
) -> None:
    out = tmp_path / "later"
    export(planted_run, out, None)
    assert list(out.rglob("*.plan")) == []
    complete(out, "1", builder)
    found = [{path.relative_to(r): path.read_bytes() for path in r.rglob("*.plan")} for r in (out, built)]
    assert found[0] == found[1]


def test_a_plan_of_another_gpu_is_built_anew(repository: Path, builder: Builder) -> None:
    told: list[str] = []
    complete(repository, "1", make_builder(builder.cache.backend, 86, builder.cache.folder), told.append)
    assert len(told) == 5
    assert {e.recipe.sm for e in complete(repository, "1", make_builder(builder.cache.backend, 86))} == {86}


def test_a_damaged_plan_is_replaced(repository: Path, builder: Builder) -> None:
    plan = repository / "filter" / "1" / "model.plan"
    whole = plan.read_bytes()
    plan.unlink()
    plan.write_bytes(whole[:-1] + b"!")
    complete(repository, "1", builder)
    assert plan.read_bytes() == whole


def test_a_failing_build_publishes_nothing(
    planted_run: Path, tmp_path: Path, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise BundleError("the builder refuses")

    monkeypatch.setattr(builder.cache, "engine", refuses)
    with pytest.raises(BundleError, match="refuses"):
        export(planted_run, tmp_path / "out", builder)
    assert not (tmp_path / "out").exists()


def test_a_machine_without_a_gpu_says_where_plans_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "device_capability", lambda: None)
    with pytest.raises(ConfigError, match=r"there is no GPU here; export on that machine .*--engines later"):
        find_builder()


@pytest.mark.parametrize(("first", "second"), [("cpu", "gpu"), ("gpu", "cpu")])
def test_a_repository_stays_with_its_target(first: str, second: str, planted_run: Path, tmp_path: Path) -> None:
    options = GpuOptions(parse_precisions([]), None)
    build_repository(planted_run / "bundle", tmp_path / "out", first, gpu=options)
    with pytest.raises(ConfigError, match=f"for the target {first}; {second} needs a folder of its own"):
        build_repository(planted_run / "bundle", tmp_path / "out", second, gpu=options)


def test_a_version_that_names_no_precisions_is_refused(repository: Path) -> None:
    (repository / "cascade" / "1" / "engines" / "precisions.json").unlink()
    with pytest.raises(BundleError, match=r"precisions\.json: cannot be read"):
        wanted_plans(repository, "1")
