"""How much of a GPU a repository will take, before anything is started: told line by line, and refused where too much.

Each line says how well it is known: `file` is a size on disk, `computed` follows from shapes, `limit` is the most that
a library is allowed, `estimate` is experience. Only a GPU can tell the true number; this errs on the large side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx

from shortlist.bundle import Bundle
from shortlist.devices.faiss_gpu import cells_for, code_size, kind_for
from shortlist.errors import ConfigError
from shortlist.export.tensorrt import WORKSPACE, Profile
from shortlist.serving.model_config import ENGINES, PLAN, Gpus, gpus_of, read_config
from shortlist.serving.plans import Wanted, wanted_plans
from shortlist.serving.tensors import CASCADE, MAX_BATCH

if TYPE_CHECKING:
    from rich.table import Table

GIGABYTE = 1e9
CUDA_CONTEXT = 500_000_000  # driver, CuPy, TensorRT and FAISS code in one process
UNBUILT_PROFILE = 1_500_000  # of a plan, on top of its graph: kernels and their descriptions
CAGRA_DEGREE, CAGRA_BUILT_FROM = 64, 128  # neighbours of each vector in FAISS's graph, and before it is pruned
LIST_GROWTH = 1.5  # of FAISS's inverted lists
BY_ITEM = ("table", "filter_items", "diversity_items", "item_groups")
TABLES = (*BY_ITEM, "filter_columns")

Source = Literal["file", "computed", "limit", "estimate"]


@dataclass(frozen=True)
class Need:
    """What one thing takes of a GPU's memory, in every instance."""

    name: str
    bytes: int
    source: Source
    note: str = ""


@dataclass(frozen=True)
class MemoryPlan:
    """What the repository takes of each GPU; `alone` is taken as well, once, where `serve --stages` is used.

    Where the index is spread over several GPUs, this is of the first; the others hold their part of the index alone.
    """

    needs: tuple[Need, ...]
    instances: int  # on each of the GPUs that have any
    alone: tuple[Need, ...]
    gpus: Gpus

    @property
    def per_instance(self) -> int:
        """Bytes of one instance of `cascade`."""
        return sum(need.bytes for need in self.needs)

    @property
    def total(self) -> int:
        """Bytes of all instances of `cascade`."""
        return self.instances * self.per_instance

    def to_json(self) -> dict[str, Any]:
        """Everything, in bytes."""
        return {
            "gpus": list(self.gpus.numbers),
            "index_gpus": self.gpus.spread,
            "instances": self.instances,
            "per_instance": self.per_instance,
            "total": self.total,
            "with_stages": self.total + sum(need.bytes for need in self.alone),
            "needs": [asdict(need) for need in self.needs],
            "stages": [asdict(need) for need in self.alone],
        }


def memory_plan(repository: Path, number: str, instances: int | None = None) -> MemoryPlan:
    """The plan for version `number` of a GPU repository, with the plans' sizes where they are built already.

    `instances` on each GPU are by default as exported.
    """
    config = read_config(repository / CASCADE.name / "config.pbtxt")
    gpus = gpus_of(config)
    version = repository / CASCADE.name / number
    bundle = Bundle.open(version / "bundle", verify=False)
    plans = wanted_plans(repository, number)
    fused = [plan for plan in plans if plan.path.parent.name == ENGINES]
    alone = [plan for plan in plans if plan.path.name == PLAN]
    needs = [
        _index(bundle, gpus),
        *_tables(bundle),
        *_restrictions(bundle),
        *(_engine(plan) for plan in fused),
        _activations(fused, shared=True),
        _workspace(fused),
        Need("FAISS temporary memory", gpus.temp_memory << 20, "limit", "of the instance's own resources"),
        _buffers(fused),
        Need("CUDA context", CUDA_CONTEXT, "estimate", "one for each process"),
    ]
    others = [
        *(_engine(plan) for plan in alone),
        _activations(alone, shared=False),
        _workspace(alone),
        _buffers(alone),
        Need("CUDA context", CUDA_CONTEXT, "estimate", "of Triton itself"),
    ]
    (group,) = config.instance_group
    return MemoryPlan(tuple(needs), instances or int(group.count), tuple(others) if alone else (), gpus)


def check_memory(repository: Path, number: str, allowed: float | None, instances: int | None = None) -> None:
    """Raise ConfigError, with the numbers and what to change, when more than `allowed` bytes of a GPU are needed."""
    if allowed is None:
        return
    plan = memory_plan(repository, number, instances)
    if plan.total <= allowed:
        return
    largest = sorted(plan.needs, key=lambda need: -need.bytes)[:3]
    parts = ", ".join(f"{need.name} {_shown(need.bytes)}" for need in largest)
    fitting = int(allowed // plan.per_instance)
    advice = f"--instances {fitting} fits" if fitting else "one instance does not fit; use a larger GPU"
    raise ConfigError(
        f"--gpu-memory = {allowed / GIGABYTE:g}: {plan.instances} instances need {_shown(plan.total)}, each "
        f"{_shown(plan.per_instance)} (above all {parts}); {advice}"
    )


def memory_table(plan: MemoryPlan) -> Table:
    """The plan for people."""
    from rich.table import Table

    table = Table("GPU memory", "MB", "known by", "", title_justify="left")
    table.columns[1].justify = "right"
    for need in plan.needs:
        table.add_row(need.name, f"{need.bytes / 1e6:,.1f}", need.source, need.note)
    table.add_section()
    table.add_row("one instance", f"{plan.per_instance / 1e6:,.1f}")
    limit = "" if plan.gpus.memory is None else f"of {plan.gpus.memory / 1e6:,.0f} allowed"
    gpus = f" on each GPU of {', '.join(map(str, plan.gpus.homes))}" if len(plan.gpus.homes) > 1 else ""
    table.add_row(f"{plan.instances} instances{gpus}", f"{plan.total / 1e6:,.1f}", "", limit)
    if plan.alone:
        extra = sum(need.bytes for need in plan.alone)
        table.add_row("filter and ranker alone", f"{extra / 1e6:,.1f}", "", "more, only with serve --stages")
    return table


def peak_bytes(graph: bytes, profile: Profile) -> int:
    """The most that intermediate tensors of a graph hold at one time, at a profile's largest sizes.

    Operators run in the graph's order and nothing is fused, so that a compiled plan needs less. Tensors whose shape
    cannot be inferred count as the largest that can.
    """
    model = sized(graph, profile)
    sizes = {value.name: _bytes(value) for value in model.graph.value_info}
    largest = max(sizes.values(), default=0)
    nodes = list(model.graph.node)
    last = {name: place for place, node in enumerate(nodes) for name in node.input}
    outputs = {value.name for value in model.graph.output}
    living: dict[str, int] = {}
    peak = 0
    for place, node in enumerate(nodes):
        living |= {name: sizes.get(name, largest) for name in node.output if name and name not in outputs}
        peak = max(peak, sum(living.values()))
        living = {name: size for name, size in living.items() if last.get(name, -1) > place}
    return peak


def sized(graph: bytes, profile: Profile) -> onnx.ModelProto:
    """The graph with a profile's largest sizes in place of its dynamic axes, and all shapes inferred from them."""
    model = onnx.load_from_string(graph)
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in profile:
                axis.dim_value = profile[axis.dim_param][2]
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _index(bundle: Bundle, gpus: Gpus) -> Need:
    """Inverted files hold an id beside each vector, and their lists grow ahead of what they hold.

    Of several shards this is one.
    """
    start, stop = bundle.document("layout")["retrieval"]
    items, dim = len(bundle.array("table")), stop - start
    kind = kind_for(items) if gpus.index == "auto" else gpus.index
    count = -(-items // (len(gpus.numbers) if gpus.spread == "shards" else 1))
    if kind == "flat":
        return Need("index", 2 * count * dim, "computed", f"flat, {count:,} × {dim} in fp16")
    if kind == "cagra":
        size = count * (4 * dim + 4 * (CAGRA_DEGREE + CAGRA_BUILT_FROM))
        return Need("index", size, "estimate", f"cagra, {count:,} × {dim} in fp32 and its graph, while it is built")
    code = dim if kind == "ivf_sq8" else code_size(dim)
    size = round(LIST_GROWTH * count * (code + 8)) + 4 * dim * cells_for(items)
    return Need("index", size, "estimate", f"{kind}, {count:,} × {code} bytes in {cells_for(items):,} cells")


def _tables(bundle: Bundle) -> list[Need]:
    names = [name for name in TABLES if bundle.has(f"{name}.npy")]
    arrays = {name: bundle.array(name) for name in names}
    return [
        Need(name, array.nbytes, "file", f"{' × '.join(f'{n:,}' for n in array.shape)} {array.dtype}")
        for name, array in arrays.items()
    ]


def _restrictions(bundle: Bundle) -> list[Need]:
    """What requests take that may not get everything, and what follows changes of items where there is a store."""
    from shortlist.stages.allowed import COLUMN_BYTES, SEARCH_BYTES  # the stages take their time to import
    from shortlist.stages.assortment import MOST_NEW
    from shortlist.stages.eligibility import CACHED_BYTES

    start, stop = bundle.document("layout")["retrieval"]
    rows = len(bundle.array("table")) + MOST_NEW
    row = sum(bundle.array(name)[:1].nbytes for name in BY_ITEM if bundle.has(f"{name}.npy"))
    bitmaps = CACHED_BYTES + 2 * (MAX_BATCH + 1) * rows // 8
    searched = min(SEARCH_BYTES, rows * (4 * (stop - start) + COLUMN_BYTES * MAX_BATCH))
    return [
        Need("room for new items", MOST_NEW * row, "limit", f"{MOST_NEW:,} rows of each table; only with a store"),
        Need("bitmaps of items", bitmaps, "limit", "of predicates and removed items: those kept, and of a batch twice"),
        Need("search by bitmaps", searched, "limit", "scores of a part of the catalogue, and what is in between"),
    ]


def _engine(plan: Wanted) -> Need:
    name = f"engine {plan.model} {plan.precision}"
    if plan.path.exists():
        return Need(name, plan.path.stat().st_size, "file", f"{len(plan.profiles)} buckets")
    size = len(plan.graph) + UNBUILT_PROFILE * len(plan.profiles)
    return Need(name, size, "estimate", f"{len(plan.profiles)} buckets, not built yet")


def _activations(plans: Sequence[Wanted], shared: bool) -> Need:
    """Buckets of ours share what the largest needs; by itself, TensorRT gives as much to each."""
    largest = [max(peak_bytes(plan.graph, profile) for profile in plan.profiles) for plan in plans]
    size = sum(most * (1 if shared else len(plan.profiles)) for most, plan in zip(largest, plans, strict=True))
    said = "one for all buckets of a plan" if shared else "each bucket as much as the largest"
    return Need("activations", size, "computed", f"intermediate tensors, {said}")


def _workspace(plans: Sequence[Wanted]) -> Need:
    return Need("workspaces", WORKSPACE * len(plans), "limit", f"of {len(plans)} engines; most plans take none")


def _buffers(plans: Sequence[Wanted]) -> Need:
    size = 0
    for plan in plans:
        for profile in plan.profiles:
            graph = sized(plan.graph, profile).graph
            size += sum(_bytes(value) for value in (*graph.input, *graph.output))
    return Need("inputs and outputs", size, "computed", "buffers of every bucket")


def _bytes(value: onnx.ValueInfoProto) -> int:
    described = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(described.elem_type)
    size = int(dtype.itemsize)
    for axis in described.shape.dim:
        size *= axis.dim_value
    return size


def _shown(size: int) -> str:
    return f"{size / GIGABYTE:.2f} GB"
