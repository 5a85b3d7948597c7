"""Engines build without a GPU, for every generation and precision that is offered, and refusals say what to do."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from torch import nn

from shortlist.errors import BundleError, ConfigError, MissingExtraError
from shortlist.export import tensorrt
from shortlist.export.onnx import export_user
from shortlist.export.qdq import asymmetric
from shortlist.export.samples import Subject
from shortlist.export.tensorrt import (
    BATCHES,
    Backend,
    bucket_profiles,
    build,
    find_backend,
    set_shapes,
    used_axes,
)
from shortlist.export.variants import PRECISIONS, is_offered, make_variant
from shortlist.models.decay import DecayTower
from shortlist.models.transformer import TransformerTower

CAPABILITIES = (80, 86, 89, 120)
OFFERED = [(sm, precision) for sm in CAPABILITIES for precision in PRECISIONS if is_offered(precision, sm)]


@pytest.fixture(scope="module")
def backend() -> Backend:
    return find_backend("tensorrt_rtx")


@pytest.mark.parametrize(("sm", "precision"), OFFERED)
@pytest.mark.parametrize("model", ["filter_subject", "ranker_subject"])
def test_engines_build(model: str, precision: str, sm: int, backend: Backend, request: pytest.FixtureRequest) -> None:
    subject: Subject = request.getfixturevalue(model)
    variant = make_variant(subject.graph, precision, subject.ranges)
    assert len(build(variant, subject.profiles, sm, backend).plan) > 100_000


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    "tower", [DecayTower(32, 5), TransformerTower(32, 5, layers=1, history=20)], ids=["decay", "transformer"]
)
def test_user_towers_build(tower: nn.Module, precision: str, backend: Backend) -> None:
    variant = make_variant(export_user(tower.eval(), 32, 5), precision, {})
    assert len(build(variant, bucket_profiles([1], 20, [1]), 89, backend).plan) > 100_000


@pytest.mark.parametrize("sm", [80, 86])
def test_fp8_fails_where_it_is_not_offered(sm: int, backend: Backend, filter_subject: Subject) -> None:
    variant = make_variant(filter_subject.graph, "fp8", filter_subject.ranges)
    with pytest.raises(BundleError, match=rf"cannot build the graph for sm {sm}: .*fp8_e4m3"):
        build(variant, filter_subject.profiles, sm, backend)


def test_asymmetric_int8_is_refused_by_name(backend: Backend, filter_subject: Subject) -> None:
    variant = asymmetric(make_variant(filter_subject.graph, "int8", filter_subject.ranges))
    with pytest.raises(BundleError, match=r"cannot parse the graph: node 'features_dequantized' \(DequantizeLinear\)"):
        build(variant, filter_subject.profiles, 89, backend)


def test_the_graph_of_the_cpu_is_refused(backend: Backend, cpu_filter: bytes, filter_subject: Subject) -> None:
    with pytest.raises(BundleError, match="cannot parse the graph"):
        build(cpu_filter, filter_subject.profiles, 89, backend)


def test_the_parser_names_an_operator_that_it_does_not_know(backend: Backend) -> None:
    value = helper.make_tensor_value_info
    node = helper.make_node("Guess", ["x"], ["y"], name="wild", domain="nowhere")
    graph = helper.make_graph([node], "odd", [value("x", TensorProto.FLOAT, [3])], [value("y", TensorProto.FLOAT, [3])])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("nowhere", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    with pytest.raises(BundleError, match=r"node 'wild' \(Guess\)"):
        build(model.SerializeToString(), [{}], 89, backend)


def test_messages_do_not_blame_the_missing_gpu(backend: Backend, cpu_filter: bytes, filter_subject: Subject) -> None:
    with pytest.raises(BundleError) as refusal:
        build(cpu_filter, filter_subject.profiles, 89, backend)
    assert "driver" not in str(refusal.value)


@pytest.mark.parametrize(
    ("sm", "advice"), [(90, "builds for 80, 86, 89, 120"), (75, "ONNX Runtime"), (42, "build on the target")]
)
def test_other_capabilities_are_refused_with_advice(sm: int, advice: str, backend: Backend) -> None:
    with pytest.raises(ConfigError, match=rf"sm = {sm}: .*{advice}"):
        build(b"", [], sm, backend)


def test_layers_are_listed_with_their_types(backend: Backend, filter_subject: Subject) -> None:
    variant = make_variant(filter_subject.graph, "int8", filter_subject.ranges)
    layers = build(variant, filter_subject.profiles, 89, backend).layers
    products = [layer for layer in layers if layer.type == "MATRIX_MULTIPLY"]
    assert [set(layer.inputs) for layer in products] == [{"HALF"}, {"HALF"}, {"FLOAT"}]
    assert [layer.outputs for layer in layers if layer.type == "QUANTIZE"] == [("INT8",)]


def test_profiles_are_the_buckets_asked_for() -> None:
    profiles = bucket_profiles([500], history=50)
    assert [profile["batch"] for profile in profiles] == [(b, b, b) for b in (1, 2, 4, 8, 16, 32, 64)]
    assert [profile["pairs"][1] for profile in profiles] == [500, 1000, 2000, 4000, 8000, 16000, 32000]


def test_every_candidate_count_has_buckets_of_its_own() -> None:
    counts = [profile["candidates"][0] for profile in bucket_profiles([100, 200])]
    assert counts == [100] * len(BATCHES) + [200] * len(BATCHES)


def test_loose_profiles_leave_no_batch_out() -> None:
    profiles = bucket_profiles([100], exact=False)
    covered = [b for profile in profiles for b in range(profile["batch"][0], profile["batch"][2] + 1)]
    assert covered == list(range(1, 65))


def test_a_profile_is_given_to_the_builder_as_asked(backend: Backend, ranker_subject: Subject) -> None:
    trt, logger = backend.module, backend.module.Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    trt.OnnxParser(network, logger).parse(ranker_subject.graph)
    profile = builder.create_optimization_profile()
    (sizes,) = bucket_profiles([100], 50, [4])
    set_shapes(profile, network.get_input(2), sizes)
    assert [tuple(shape) for shape in profile.get_shape("candidates")] == [(4, 100, 16)] * 3


def test_an_axis_without_a_size_is_named(float_ranker: bytes) -> None:
    with pytest.raises(ConfigError, match="no size for candidates, history"):
        used_axes(float_ranker, [{"batch": (1, 1, 1)}])


def test_an_unknown_builder_is_refused() -> None:
    with pytest.raises(ConfigError, match="builder = 'tvm': unknown; tensorrt, tensorrt_rtx is allowed"):
        find_backend("tvm")


@pytest.mark.parametrize("name", ["tensorrt_rtx", None])
def test_a_missing_builder_names_its_extra(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in tensorrt.BUILDERS.values():
        monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[rtx\]'"):
        find_backend(name)


def test_a_missing_tensorrt_names_the_image_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(ConfigError, match=r"tensorrt is not installed.*Dockerfile\.gpu"):
        find_backend("tensorrt")


def test_tensorrt_of_the_target_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", SimpleNamespace(__version__="10.11.0.33"))
    assert find_backend().version == "10.11.0.33"


def test_the_first_gpu_is_asked_for_its_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(value: Any, attribute: int, _: Any) -> None:
        value._obj.value = {75: 8, 76: 9}[attribute]

    driver = SimpleNamespace(cuInit=lambda _: 0, cuDeviceGet=lambda *_: 0, cuDeviceGetAttribute=answer)
    monkeypatch.setattr(tensorrt.ctypes, "CDLL", lambda _: driver)
    assert tensorrt.device_capability() == 89


class OnTarget:
    """Stands for `tensorrt` on a machine with a GPU: parses for real, and pretends to build."""

    def __init__(self, module: Any) -> None:
        self.module, self.timings, self.capabilities_set = module, [], 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def Builder(self, logger: Any) -> Any:  # noqa: N802
        real, target = self.module.Builder(logger), self

        class Config:
            def set_memory_pool_limit(self, *_: Any) -> None: ...
            def create_timing_cache(self, content: bytes) -> bytes:
                return content

            def set_timing_cache(self, content: bytes, ignore_mismatch: bool) -> None:
                target.timings.append(content)

            def get_timing_cache(self) -> Any:
                return SimpleNamespace(serialize=lambda: b"measured")

            def add_optimization_profile(self, _: Any) -> int:
                return 0

        return SimpleNamespace(
            create_network=real.create_network,
            create_builder_config=Config,
            create_optimization_profile=real.create_optimization_profile,
            build_serialized_network=lambda *_: b"plan",
        )


@pytest.fixture
def target(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    monkeypatch.setattr(tensorrt, "device_capability", lambda: 89)
    return Backend("tensorrt", "10.11.0.33", OnTarget(backend.module))


def test_the_target_is_handed_what_earlier_builds_measured(target: Backend, filter_subject: Subject) -> None:
    built = build(filter_subject.graph, filter_subject.profiles, 89, target, b"earlier")
    assert (target.module.timings, built.timing, built.plan) == ([b"earlier"], b"measured", b"plan")


def test_the_target_builds_for_its_own_gpu_alone(target: Backend, filter_subject: Subject) -> None:
    with pytest.raises(ConfigError, match=r"sm = 80: tensorrt \S+ builds for the GPU at hand, and this one has 89"):
        build(filter_subject.graph, filter_subject.profiles, 80, target)


def test_the_target_without_a_gpu_says_so(
    target: Backend, filter_subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "device_capability", lambda: None)
    with pytest.raises(ConfigError, match="there is none; build on the target"):
        build(filter_subject.graph, filter_subject.profiles, 89, target)


def test_variants_have_the_shapes_of_their_graph(ranker_subject: Subject) -> None:
    variant = make_variant(ranker_subject.graph, "int8", ranker_subject.ranges)
    assert tensorrt.graph_axes(variant) == tensorrt.graph_axes(ranker_subject.graph)
    assert len(onnx.load_from_string(variant).graph.output) == 1
