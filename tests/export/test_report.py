"""The report says what builds, what is refused as it should be, and what each precision changes."""

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from onnx import helper
from rich.console import Console

from shortlist.errors import ConfigError
from shortlist.export.engines import EngineCache
from shortlist.export.report import default_capabilities, engine_report, print_report, unexpected_failures
from shortlist.export.samples import Subject
from shortlist.export.tensorrt import Backend, find_backend
from shortlist.export.variants import PRECISIONS


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> EngineCache:
    return EngineCache(tmp_path_factory.mktemp("engines"), find_backend("tensorrt_rtx"))


@pytest.fixture(scope="module")
def report(cache: EngineCache, filter_subject: Subject, ranker_subject: Subject) -> dict[str, Any]:
    return engine_report([filter_subject, ranker_subject], cache, [80, 89])


def _without_products() -> bytes:
    value = helper.make_tensor_value_info
    inputs = [value("features", 1, ["pairs", 124]), value("linear", 1, ["pairs"])]
    node = helper.make_node("Relu", ["linear"], ["score"])
    graph = helper.make_graph([node], "plain", inputs, [value("score", 1, ["pairs"])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def _entry(report: dict[str, Any], model: str, precision: str, sm: int) -> dict[str, Any]:
    key = (model, precision, sm)
    (entry,) = [e for e in report["engines"] if (e["model"], e["precision"], e["sm"]) == key]
    return entry


def test_every_model_precision_and_generation_has_an_entry(report: dict[str, Any]) -> None:
    assert len(report["engines"]) == 2 * 2 * (len(PRECISIONS) + 1)


def test_an_engine_is_told_with_size_time_and_layers(report: dict[str, Any]) -> None:
    entry = _entry(report, "ranker", "fp16", 89)
    assert entry["ok"]
    assert (entry["bytes"] > 100_000, entry["seconds"] > 0, entry["profiles"]) == (True, True, 2)
    assert {"HALF"} in [set(layer["outputs"]) for layer in entry["layers"] if layer["type"] == "SOFTMAX"]


def test_fp8_is_an_expected_failure_where_it_is_not_offered(report: dict[str, Any]) -> None:
    refused, built = (_entry(report, "filter", "fp8", sm) for sm in (80, 89))
    assert (refused["ok"], refused["expected_failure"], built["ok"]) == (False, True, True)
    assert "fp8" in refused["reason"]


@pytest.mark.parametrize("model", ["filter", "ranker"])
def test_asymmetric_int8_is_an_expected_failure(model: str, report: dict[str, Any]) -> None:
    entry = _entry(report, model, "int8-asymmetric", 89)
    assert (entry["ok"], entry["expected_failure"]) == (False, True)


def test_nothing_fails_unexpectedly(report: dict[str, Any]) -> None:
    assert unexpected_failures(report) == []


def test_a_failure_that_should_not_be_is_named(report: dict[str, Any]) -> None:
    entry = {**_entry(report, "filter", "fp8", 80), "expected_failure": False}
    (line,) = unexpected_failures({**report, "engines": [entry]})
    assert line.startswith("filter fp8 sm 80: tensorrt_rtx")


def test_an_engine_that_should_have_failed_is_named(report: dict[str, Any]) -> None:
    entry = {**_entry(report, "filter", "fp8", 89), "expected_failure": True}
    assert unexpected_failures({**report, "engines": [entry]}) == [
        "filter fp8 sm 89: was built, although it is not offered"
    ]


def test_int8_of_a_graph_without_products_is_not_offered(cache: EngineCache, filter_subject: Subject) -> None:
    plain = replace(filter_subject, graph=_without_products())
    report = engine_report([plain], cache, [89], ["fp32", "int8"])
    assert [(e["precision"], e["ok"], e["expected_failure"]) for e in report["engines"]] == [
        ("fp32", True, False),
        ("int8", False, True),
    ]


def test_a_graph_that_cannot_be_calibrated_is_a_failure(cache: EngineCache, filter_subject: Subject) -> None:
    report = engine_report([replace(filter_subject, ranges={})], cache, [89], ["int8"])
    (line,) = unexpected_failures(report)
    assert "no range for its input 'features'" in line


def test_precisions_keep_the_choice_of_fp32(report: dict[str, Any]) -> None:
    top10 = {name: value for name, value in report["overlap"].items() if name.endswith("top10")}
    assert set(top10) == {f"{m} {p} top10" for m in ("filter", "ranker") for p in ("fp16", "bf16", "int8", "fp8")}
    assert min(top10.values()) >= 0.98


def test_the_filter_is_judged_at_the_depth_that_goes_on_too(report: dict[str, Any]) -> None:
    assert report["overlap"]["filter int8 top100"] >= 0.98


def test_quantized_nodes_are_counted(report: dict[str, Any]) -> None:
    assert report["qdq_nodes"] == 5 + 12


def test_the_report_is_json(report: dict[str, Any]) -> None:
    assert json.loads(json.dumps(report)) == report


def test_the_table_shows_what_is_not_offered(report: dict[str, Any]) -> None:
    text = io.StringIO()
    print_report(report, Console(file=text, width=140))
    (row,) = [line for line in text.getvalue().splitlines() if "filter" in line and "fp8" in line]
    assert "not offered" in row


def test_a_second_report_builds_nothing(report: dict[str, Any], cache: EngineCache, filter_subject: Subject) -> None:
    strict = EngineCache(cache.folder, cache.backend, may_build=False)
    again = engine_report([filter_subject], strict, [80, 89], ["fp16"])
    assert again["engines"] == [e for e in report["engines"] if (e["model"], e["precision"]) == ("filter", "fp16")]


def test_a_capability_that_cannot_be_built_for_is_refused(cache: EngineCache, filter_subject: Subject) -> None:
    with pytest.raises(ConfigError, match="sm = 90"):
        engine_report([filter_subject], cache, [90], ["fp32"])


def test_the_target_reports_on_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortlist.export.report.device_capability", lambda: 90)
    assert default_capabilities(Backend("tensorrt", "10.11", None)) == (90,)


def test_a_target_without_a_gpu_names_the_other_builder() -> None:
    with pytest.raises(ConfigError, match="install the extra rtx"):
        default_capabilities(Backend("tensorrt", "10.11", None))
