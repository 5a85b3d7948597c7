"""The memory plan of a GPU counts everything that an instance holds, and says how well it knows it."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from shortlist.bundle import Bundle
from shortlist.errors import ConfigError
from shortlist.serving import memory
from shortlist.serving.memory import MemoryPlan, check_memory, memory_plan, peak_bytes
from shortlist.serving.model_config import parse_gpus
from shortlist.serving.plans import parse_precisions
from shortlist.serving.repository import GpuOptions, build_repository
from tests.factories import DIM, make_bundle

ITEMS = 300


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory")
    options = GpuOptions(parse_precisions(["filter=fp16"]), None)
    build_repository(make_bundle(folder / "bundle", ITEMS), folder / "out", "gpu", instances=3, gpu=options)
    return folder / "out"


def test_every_instance_holds_everything(repository: Path) -> None:
    plan = memory_plan(repository, "1")
    assert plan.total == 3 * sum(need.bytes for need in plan.needs)


def test_the_tables_are_counted_as_they_are(repository: Path) -> None:
    bundle = Bundle.open(repository / "cascade" / "1" / "bundle")
    known = {need.name: need for need in memory_plan(repository, "1").needs}
    assert known["table"].bytes == bundle.array("table").nbytes
    assert known["diversity_items"].source == "file"


def test_what_restricts_requests_is_counted(repository: Path) -> None:
    bundle = Bundle.open(repository / "cascade" / "1" / "bundle")
    known = {need.name: need.bytes for need in memory_plan(repository, "1").needs}
    assert known["room for new items"] == 10_000 * sum(bundle.array(name)[0].nbytes for name in memory.BY_ITEM[:3])
    assert known["bitmaps of items"] > 32 << 20
    assert 0 < known["search by bitmaps"] <= 256 << 20


def test_a_flat_index_is_the_vectors_in_half_precision(repository: Path) -> None:
    (index,) = [need for need in memory_plan(repository, "1").needs if need.name == "index"]
    assert index.bytes == 2 * ITEMS * DIM


@pytest.mark.parametrize(("kind", "code"), [("ivf_sq8", DIM), ("ivf_pq", DIM // 4)])
def test_a_coarse_index_holds_codes_and_ids(
    kind: str, code: int, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "kind_for", lambda _: kind)
    (index,) = [need for need in memory_plan(repository, "1").needs if need.name == "index"]
    assert index.source == "estimate"
    assert index.bytes > ITEMS * (code + 8)


def test_a_built_plan_counts_with_its_own_size(repository: Path, tmp_path: Path) -> None:
    plan = repository / "cascade" / "1" / "engines" / "user.plan"
    assert {need.name: need for need in memory_plan(repository, "1").needs}["engine user fp16"].source == "estimate"
    plan.write_bytes(b"0" * 12345)
    counted = {need.name: need for need in memory_plan(repository, "1").needs}["engine user fp16"]
    plan.unlink()
    assert (counted.bytes, counted.source) == (12345, "file")


def test_what_fits_is_allowed_and_what_does_not_is_refused(repository: Path) -> None:
    total, one = memory_plan(repository, "1").total, memory_plan(repository, "1").per_instance
    check_memory(repository, "1", total)
    with pytest.raises(ConfigError, match=r"3 instances need .*--instances 2 fits"):
        check_memory(repository, "1", total - 1)
    with pytest.raises(ConfigError, match="one instance does not fit"):
        check_memory(repository, "1", one - 1)


def test_the_peak_is_what_lives_at_one_time() -> None:
    names = ["x", "a", "b", "c", "y"]
    nodes = [helper.make_node("Relu", [source], [target]) for source, target in pairwise(names)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 10]) for name in ("x", "y")]
    model = helper.make_model(helper.make_graph(nodes, "chain", ends[:1], ends[1:]))
    onnx.checker.check_model(model)
    assert peak_bytes(model.SerializeToString(), {"batch": (1, 4, 4)}) == 2 * 4 * 10 * 4


@pytest.fixture
def spread(repository: Path, tmp_path: Path) -> Callable[..., MemoryPlan]:
    def plan(spread: str | None, instances: int | None = None) -> MemoryPlan:
        options = GpuOptions(parse_precisions(["filter=fp16"]), None, gpus=parse_gpus("0,1", spread))
        build_repository(repository.parent / "bundle", tmp_path / "out", "gpu", instances=3, gpu=options)
        return memory_plan(tmp_path / "out", "1", instances)

    return plan


@pytest.mark.parametrize(("how", "share"), [(None, 1), ("shards", 2), ("replicas", 1)])
def test_each_gpu_holds_its_share_of_the_index(how: str | None, share: int, spread: Callable[..., MemoryPlan]) -> None:
    plan = spread(how)
    (index,) = [need for need in plan.needs if need.name == "index"]
    assert index.bytes == 2 * ITEMS * DIM // share
    assert plan.total == 3 * plan.per_instance
    assert (plan.to_json()["gpus"], plan.to_json()["index_gpus"]) == ([0, 1], how)


def test_another_number_of_instances_can_be_planned_for(spread: Callable[..., MemoryPlan]) -> None:
    assert spread(None, 5).total == 5 * spread(None).per_instance
