"""A small valid bundle with real ONNX graphs and a real FAISS index, made in milliseconds and without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import onnx
from onnx import TensorProto, helper

from shortlist.attributes import DOCUMENT, Attribute, attribute_parts
from shortlist.bundle import write_bundle
from shortlist.catalog import IdMap, build_table
from shortlist.config import CascadeConfig
from shortlist.data.encoders import FeatureEncoder, FeatureEncoders
from shortlist.kernels.fuse_features import Columns, make_columns
from shortlist.stages.delta import FEATURES as FEATURES_OF_NEW
from shortlist.stages.delta import GROUPS, RANKER, RETRIEVAL
from shortlist.stages.popularity import EVERYONE

DIM, EMBEDDING, FEATURES = 16, 8, 2
PATIENT_MS = 60_000  # so that a busy machine does not lighten the effort, and with it change the slates


def make_bundle(
    path: Path,
    items: int = 300,
    users: int = 40,
    seed: int = 0,
    cells: int | None = None,
    attributes: Mapping[str, Attribute] | None = None,
    prefix: str = "item",
    contents: Sequence[Mapping[str, Any]] = (),
    **cascade: Any,
) -> Path:
    """Write a bundle of `items` items (`item-0` …) and `users` users (`user-0` …) with histories of 0 to 30 items.

    Items may have another `prefix`. With `contents`, attributes of the last items, those are as training makes items
    that nobody has had, and the bundle takes new items.
    The index is exact, or an inverted file of `cells`, an eighth of which are searched.
    """
    rng = np.random.default_rng(seed)  # each part draws from it in its turn: in another order, slates are others
    encoders = tiny_encoders(contents)
    columns = filter_columns(encoders.side_width)
    settings = {"candidates": 100, "rank_depth": 40, "eligibility": tuple(attributes or ()), "batch_ms": PATIENT_MS}
    config = CascadeConfig(**settings | cascade)
    item_arrays, layout, vectors = _item_arrays(rng, items, encoders, contents)
    attribute_arrays, attribute_document = attribute_parts(attributes or {})
    arrays = {
        **item_arrays,
        **_history_arrays(rng, items, users),
        **_popularity_arrays(rng, items),
        **_linear_arrays(rng, items),
        **({**attribute_arrays, EVERYONE: rng.random(items, np.float32)} if attributes else {}),
        **_side_arrays(rng, users, encoders.user_encoder.width),
        **({"item_groups": (np.arange(items) % 30).astype(np.int32)} if config.group_by else {}),
        "filter_columns": np.stack([columns.multiplier, columns.offset, columns.weight]),
        **IdMap.build([f"{prefix}-{i}" for i in range(items)]).arrays("item"),
        **IdMap.build([f"user-{u}" for u in range(users)]).arrays("user"),
    }
    documents = {
        "layout": layout,
        "features": encoders.to_document(),
        "filter": {name: getattr(columns, name) for name in ("bias", "low", "high", "zero", "dtype")},
        "retrieve": {"linear_decays": [0.9], "nprobe": max(1, cells // 8) if cells else None},
        **({DOCUMENT: attribute_document} if attributes else {}),
        **({GROUPS: [f"g{i}" for i in range(30)]} if config.group_by else {}),
        "popularity": {"field": "hour", "values": ["0", "1"]},
        "scales": {"retrieve": [0, 1], "filter": [0, 1], "rank": [0, 1], "popularity": [-6, 1]},
    }
    index_file = _write_index(path, vectors, cells)
    write_bundle(
        path,
        arrays=arrays,
        graphs=_graphs(encoders.side_width),
        documents=documents,
        files={"index.faiss": index_file},
        metadata={"mask_seen": True, "cascade": config.model_dump(mode="json"), "name": "tiny"},
    )
    index_file.unlink()
    return path


def _item_arrays(
    rng: np.random.Generator, items: int, encoders: FeatureEncoders, contents: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, np.ndarray], dict[str, Any], np.ndarray]:
    """What is known of items, how their table is laid out, and their retrieval vectors [N, DIM]."""
    vectors = _unit(rng.normal(size=(items, DIM)))
    embeddings, features = (rng.normal(size=(items, n)).astype(np.float32) for n in (EMBEDDING, FEATURES))
    maps = new_item_maps(encoders, contents, rng)
    for part, name in ((vectors, RETRIEVAL), (embeddings, RANKER), (features, "")):
        if contents:
            rows = np.stack([encoders.item_row(content) for content in contents])
            part[-len(contents) :] = rows @ maps[name] if name else maps[FEATURES_OF_NEW]
    table, layout = build_table({"retrieval": vectors, "history": vectors, "ranker": embeddings, "features": features})
    arrays = {
        "table": table,
        "diversity_items": _unit(vectors).astype(np.float16),
        **maps,
        "filter_items": np.concatenate([vectors, features], axis=1).astype(np.float16),
    }
    return arrays, layout, vectors


def _history_arrays(rng: np.random.Generator, items: int, users: int) -> dict[str, np.ndarray]:
    lengths = rng.integers(0, 31, users)
    lengths[0] = 20
    rows = [rng.choice(items, n, replace=False) for n in lengths]
    return {
        "profile_offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "profile_rows": np.concatenate(rows).astype(np.int32),
    }


def _popularity_arrays(rng: np.random.Generator, items: int) -> dict[str, np.ndarray]:
    """Lists for everybody and for two hours."""
    rows = np.argsort(-rng.random((3, items)), axis=1)[:, : min(items, 200)].astype(np.int32)
    shares = np.sort(rng.random(rows.shape).astype(np.float32) / items)[:, ::-1].copy()
    return {"popularity_rows": rows, "popularity_shares": shares}


def _linear_arrays(rng: np.random.Generator, items: int) -> dict[str, np.ndarray]:
    """An item-item channel: five neighbours of each item."""
    return {
        "linear0_indptr": np.arange(items + 1, dtype=np.int64) * 5,
        "linear0_indices": np.concatenate([rng.choice(items, 5, replace=False) for _ in range(items)]).astype("i4"),
        "linear0_values": rng.random(items * 5).astype(np.float32),
    }


def _side_arrays(rng: np.random.Generator, users: int, width: int) -> dict[str, np.ndarray]:
    return {
        "profile_features": rng.normal(size=(users, width)).astype(np.float32),
        "profile_unknown": np.zeros(width, np.float32),
    }


def _write_index(path: Path, vectors: np.ndarray, cells: int | None) -> Path:
    """A file beside the bundle to be."""
    file = path.parent / f"{path.name}-index.faiss"
    path.parent.mkdir(parents=True, exist_ok=True)
    index = faiss.index_factory(DIM, f"IVF{cells},SQ8" if cells else "Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(file))
    return file


def tiny_encoders(contents: Sequence[Mapping[str, Any]] = ()) -> FeatureEncoders:
    """Users have an age; contexts have an hour and a device; items have what all of `contents` have."""
    kinds = {name: _kind(value) for name, value in (contents[0] if contents else {}).items()}
    return FeatureEncoders(
        item_encoder=FeatureEncoder.fit(kinds, {name: [content[name] for content in contents] for name in kinds}),
        user_encoder=FeatureEncoder.fit({"age": "numeric"}, {"age": [20, 30, 40]}),
        context_encoder=FeatureEncoder.fit(
            {"hour": "cyclic", "device": "category"}, {"hour": [0, 12, 23], "device": ["phone", "tablet", "phone"]}
        ),
    )


def new_item_maps(
    encoders: FeatureEncoders, contents: Sequence[Mapping[str, Any]], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """What makes vectors of content; nothing without `contents`."""
    if not contents:
        return {}
    width = encoders.item_encoder.width
    made = {name: rng.normal(size=(width, size)) for name, size in ((RETRIEVAL, DIM), (RANKER, EMBEDDING))}
    return {name: array.astype(np.float32) for name, array in {**made, FEATURES_OF_NEW: np.array([0.5, -1])}.items()}


def _kind(value: Any) -> str:
    return "multi" if isinstance(value, list) else "category" if isinstance(value, str) else "numeric"


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _graphs(side: int) -> dict[str, bytes]:
    return {"user": _user_graph(side), "filter": _filter_graph(side), "ranker": _ranker_graph(side)}


def _user_graph(side: int) -> bytes:
    """User vector = mean of the history's vectors."""
    nodes = [
        helper.make_node("ReduceSum", ["history", "axis1"], ["sum"], keepdims=0),
        *_mean_nodes(),
        helper.make_node("ReduceSum", ["side", "axis1"], ["sides"], keepdims=1),
        helper.make_node("Mul", ["sides", "zero"], ["nothing"]),
        helper.make_node("Add", ["mean", "nothing"], ["user"]),
    ]
    inputs = [_tensor("history", ["B", "L", DIM]), _lengths(), _tensor("side", ["B", side])]
    return _model(nodes, inputs, _tensor("user", ["B", DIM]))


def filter_columns(side: int) -> Columns:
    """The filter's linear part = u·v + linear channel; its integers take no part in the score."""
    width = DIM + FEATURES + 2 + side
    weight = np.zeros(width, np.float32)
    weight[:DIM] = weight[DIM + FEATURES + 1] = 1
    return make_columns(np.zeros(width, np.float32), np.ones(width, np.float32), weight, 0.0, 4.0)


def _filter_graph(side: int) -> bytes:
    """Score = linear part + 0 · integers."""
    width = DIM + FEATURES + 2 + side
    nodes = [
        helper.make_node("DequantizeLinear", ["features", "one", "middle"], ["numbers"]),
        helper.make_node("MatMul", ["numbers", "weights"], ["column"]),
        helper.make_node("Squeeze", ["column", "axis1"], ["nothing"]),
        helper.make_node("Add", ["linear", "nothing"], ["score"]),
    ]
    constants = [
        helper.make_tensor("weights", TensorProto.FLOAT, [width, 1], [0.0] * width),
        helper.make_tensor("middle", TensorProto.UINT8, [], [128]),
    ]
    integers = helper.make_tensor_value_info("features", TensorProto.UINT8, ["M", width])
    return _model(nodes, [integers, _tensor("linear", ["M"])], _tensor("score", ["M"]), constants)


def _ranker_graph(side: int) -> bytes:
    """Score = sigmoid(mean history · candidate + first item feature)."""
    nodes = [
        helper.make_node("ReduceSum", ["history", "axis1"], ["sum"], keepdims=0),
        *_mean_nodes(),
        helper.make_node("Unsqueeze", ["mean", "axis2"], ["query"]),
        helper.make_node("MatMul", ["candidates", "query"], ["dots3"]),
        helper.make_node("Squeeze", ["dots3", "axis2"], ["dots"]),
        helper.make_node("Gather", ["features", "zero_index"], ["feature"], axis=2),
        helper.make_node("Add", ["dots", "feature"], ["sum2"]),
        helper.make_node("ReduceSum", ["side", "axis1"], ["sides"], keepdims=1),
        helper.make_node("Mul", ["sides", "zero"], ["nothing"]),
        helper.make_node("Add", ["sum2", "nothing"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["score"]),
    ]
    inputs = [
        _tensor("history", ["B", "L", EMBEDDING]),
        _lengths(),
        _tensor("candidates", ["B", "N", EMBEDDING]),
        _tensor("features", ["B", "N", FEATURES + 2]),
        _tensor("side", ["B", side]),
    ]
    return _model(nodes, inputs, _tensor("score", ["B", "N"]))


def _mean_nodes() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Cast", ["lengths"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Max", ["count", "one"], ["count1"]),
        helper.make_node("Unsqueeze", ["count1", "axis1"], ["count2"]),
        helper.make_node("Div", ["sum", "count2"], ["mean"]),
    ]


def _tensor(name: str, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _lengths() -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info("lengths", TensorProto.INT64, ["B"])


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    output: onnx.ValueInfoProto,
    constants: list[onnx.TensorProto] | None = None,
) -> bytes:
    shared = [
        helper.make_tensor("axis1", TensorProto.INT64, [1], [1]),
        helper.make_tensor("axis2", TensorProto.INT64, [1], [2]),
        helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
        helper.make_tensor("zero_index", TensorProto.INT64, [], [0]),
    ]
    used = {name for node in nodes for name in node.input}
    initializers = [t for t in [*shared, *(constants or [])] if t.name in used]
    graph = helper.make_graph(nodes, "tiny", inputs, [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
