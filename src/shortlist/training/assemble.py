"""From trained models to a bundle: item table, index, ONNX graphs, profiles and constants, as serving reads them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import linalg

from shortlist import golden
from shortlist.attributes import DOCUMENT, attribute_parts
from shortlist.bundle import write_bundle
from shortlist.cascade import Cascade
from shortlist.catalog import IdMap, build_table
from shortlist.config import Config
from shortlist.data.dataset import Dataset
from shortlist.data.features import Features
from shortlist.data.item_statistics import unseen_statistics
from shortlist.data.log import InteractionLog
from shortlist.data.splits import Examples, Split
from shortlist.models.ranker import Ranker
from shortlist.models.retriever import Retriever
from shortlist.profiles.replay import user_batch
from shortlist.stages.delta import DIVERSITY, FEATURES, GROUPS, RANKER, RETRIEVAL
from shortlist.stages.diversify import joined
from shortlist.stages.popularity import EVERYONE
from shortlist.training.attributes import item_attributes
from shortlist.training.filter import FilterInput
from shortlist.training.groups import group_values, item_groups
from shortlist.training.index import QUERIES, build_index
from shortlist.training.popularity import PopularityTable, fit_popularity
from shortlist.types import Float32, Int64

if TYPE_CHECKING:
    from shortlist.data.features import Content

BY_ITEM = ("table", "diversity_items", "filter_items")  # arrays with a row for each item, as they were learned
CONTENT_WIDTH = 32  # columns that stand for an item's content when slates are diversified
SINGULAR_SAMPLE = 50_000  # items whose content gives those columns, where it is sparse
SCALE_SAMPLE = 500  # validation examples whose scores give the diversifier's constants


@dataclass(frozen=True)
class Trained:
    """Everything one run learned."""

    retriever: Retriever
    ranker: Ranker
    graphs: dict[str, bytes]  # user, filter, ranker
    features: Features
    filter_input: FilterInput


def assemble(
    path: Path, config: Config, dataset: Dataset, split: Split, trained: Trained, facts: dict[str, Any]
) -> Path:
    """Write the bundle at `path`.

    Items stand in the order of the index, which is not that of the data set where they are many. A draft comes first,
    whose stages give the constants of the diversifier, and which with these answers the golden requests.
    """
    vectors, features = trained.retriever.item_vectors(), trained.features
    index = build_index(vectors, config.cascade.candidates, config.seed, _queries(trained, config, split))
    split, dataset = split.reordered(index.order), replace(dataset, items=dataset.items[index.order])
    log = split.deploy_log
    popularity = fit_popularity(split)
    table, layout = build_table(
        {
            "retrieval": vectors,
            "history": trained.retriever.history_vectors(),
            "ranker": trained.ranker.item_embeddings(),
            "features": features.item_features,
        }
    )
    learned = {
        "table": table,
        **diversity_arrays(vectors, features.item_content, config.seed),
        **trained.filter_input.arrays(),
    }
    arrays: dict[str, NDArray[Any]] = {
        **learned,
        **{name: learned[name][index.order] for name in BY_ITEM},
        **_maps_for_new_items(trained, split),
        "popularity_rows": popularity.rows,
        "popularity_shares": popularity.shares,
        **_linear_arrays(trained.retriever, index.order),
        **_profile_arrays(log, features),
        **IdMap.build(log.item_ids).arrays("item"),
    }
    choices, choice_documents = _by_choice(config, dataset, popularity)
    arrays |= choices
    documents: dict[str, Any] = {
        "layout": layout,
        "features": features.to_document(),
        "filter": trained.filter_input.document(),
        "popularity": popularity.document(),
        "scales": {name: [0.0, 1.0] for name in ("retrieve", "filter", "rank", "popularity")},
        **choice_documents,
    }
    metadata = {
        "cascade": config.cascade.model_dump(mode="json"),
        "mask_seen": trained.retriever.mask_seen,
        "known_until_ms": _known_until_ms(log),
        **facts,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # beside the bundle: /tmp may be memory
        index_file = Path(folder) / "index.faiss"
        index.write(index_file)
        arrays |= index.arrays
        items_file = Path(folder) / "items.parquet"
        dataset.items.write_parquet(items_file)
        documents["retrieve"] = {
            "linear_decays": [float(c.decay) for c in trained.retriever.channels],
            **index.settings,
        }
        files = {"index.faiss": index_file, "items.parquet": items_file}

        def write(to: Path) -> Path:
            return write_bundle(
                to, arrays=arrays, graphs=trained.graphs, documents=documents, files=files, metadata=metadata
            )

        draft = Cascade.load(write(Path(folder) / "draft"), verify=False)
        documents["scales"] = scales = _measure_scales(draft, split.validation, trained, popularity)
        draft.diversify.scales = {stage: (mean, deviation) for stage, (mean, deviation) in scales.items()}
        documents[golden.DOCUMENT] = golden.golden_document(draft)
        return write(path)


def _by_choice(
    config: Config, dataset: Dataset, popularity: PopularityTable
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and documents of what a configuration may ask for: groups, attributes to restrict by."""
    arrays: dict[str, NDArray[Any]] = {}
    documents: dict[str, Any] = {}
    groups = item_groups(dataset, config.cascade.group_by)
    if groups is not None:
        arrays["item_groups"] = groups
    if config.cascade.group_by:
        documents[GROUPS] = group_values(dataset.items[config.cascade.group_by])
    attributes = item_attributes(dataset.items, dataset.item_attributes, config.cascade.eligibility)
    if attributes:
        attribute_arrays, documents[DOCUMENT] = attribute_parts(attributes)
        arrays |= {EVERYONE: popularity.everyone, **attribute_arrays}
    return arrays, documents


def _queries(trained: Trained, config: Config, split: Split) -> Float32:
    """Vectors of some people before their validation events: what the index will be asked."""
    examples = split.validation.sample(QUERIES, seed=0)
    rows, lengths = examples.histories(0, len(examples), config.cascade.history)
    vectors = trained.retriever.user_vectors(rows, lengths, trained.features.side(examples))
    return vectors[lengths > 0]


def diversity_arrays(vectors: Float32, content: Content, seed: int) -> dict[str, NDArray[Any]]:
    """Unit vectors [N, ·] whose cosine is the mean of the cosines of retrieval vectors [N, D] and of content [N, C].

    Content wider than CONTENT_WIDTH is projected on its leading singular vectors. Beside the vectors, what content is
    multiplied with before it is part of them.
    """
    axes = _content_axes(content, seed)
    parts = [vectors, np.asarray(content @ axes, np.float32)]
    parts = [part for part in parts if np.abs(part).max(initial=0) > 0]
    items = joined(parts) if parts else np.zeros((len(vectors), 1), np.float32)
    kept = {DIVERSITY: axes} if len(parts) == 2 else {}
    return {"diversity_items": items.astype(np.float16), **kept}


def _content_axes(content: Content, seed: int) -> Float32:
    """The directions [C, at most CONTENT_WIDTH] along which content differs most; of sparse content, in a sample."""
    width = content.shape[1]
    if width <= CONTENT_WIDTH:
        return np.eye(width, dtype=np.float32)
    if isinstance(content, np.ndarray):
        torch.manual_seed(seed)
        return torch.svd_lowrank(torch.from_numpy(content), q=CONTENT_WIDTH)[2].numpy()
    rng = np.random.default_rng(seed)
    sample = content[rng.permutation(content.shape[0])[:SINGULAR_SAMPLE]]
    count = min(CONTENT_WIDTH, min(sample.shape) - 1)
    axes = linalg.svds(sample, count, v0=rng.standard_normal(min(sample.shape)), return_singular_vectors="vh")[2]
    return np.asarray(axes.T, np.float32)


def _maps_for_new_items(trained: Trained, split: Split) -> dict[str, NDArray[Any]]:
    """What makes rows of the item tables from attributes alone; nothing where the items have none."""
    retrieval, ranker = trained.retriever.content_map(), trained.ranker.content_map
    if retrieval is None or ranker is None or not trained.features.item_encoder.encoders:
        return {}
    return {RETRIEVAL: retrieval, RANKER: ranker, FEATURES: unseen_statistics(split.train)}


def _linear_arrays(retriever: Retriever, order: Int64) -> dict[str, NDArray[Any]]:
    return {
        f"linear{i}_{name}": np.asarray(getattr(channel, name), dtype)
        for i, channel in enumerate(channel.reordered(order) for channel in retriever.channels)
        for name, dtype in (("indptr", np.int64), ("indices", np.int32), ("values", np.float32))
    }


def _profile_arrays(log: InteractionLog, features: Features) -> dict[str, NDArray[Any]]:
    return {
        "profile_offsets": np.asarray(log.offsets, np.int64),
        "profile_rows": np.asarray(log.rows, np.int32),
        "profile_features": np.asarray(features.user_features, np.float32),
        "profile_unknown": np.asarray(features.user_row(None), np.float32),
        **IdMap.build(log.user_ids).arrays("user"),
    }


def _known_until_ms(log: InteractionLog) -> int:
    """Time of the newest event, ms since 1970: events after it are news. 0 where the data have no time.

    A log has seconds. What happened later within the newest one may count as news although it is known, which is
    better than that it is missed.
    """
    return 1000 * int(log.timestamps.max(initial=0)) if log.has_timestamps else 0


def _measure_scales(
    cascade: Cascade, validation: Examples, trained: Trained, popularity: PopularityTable
) -> dict[str, list[float]]:
    """Mean and deviation of each stage's scores among the candidates that diversification would see."""
    examples = validation.sample(SCALE_SAMPLE, seed=0)
    users = user_batch(cascade.users, trained.features, examples, 0, len(examples))
    warm = users.take(np.flatnonzero(users.lengths > 0))
    depth = cascade.config.rank_depth
    retrieved = cascade.retrieve(warm, cascade.config.candidates)
    filtered = cascade.filter(warm, retrieved, depth)
    ranked = cascade.rank(warm, filtered, depth)
    return {
        "retrieve": _scale(retrieved.head(depth).scores),
        "filter": _scale(filtered.scores),
        "rank": _scale(_logit(ranked.scores)),
        "popularity": _scale(_logit(popularity.shares[:, :depth])),
    }


def _logit(probabilities: Float32) -> Float32:
    safe = np.clip(probabilities, 1e-7, 1 - 1e-7)
    logits: Float32 = np.log(safe) - np.log1p(-safe)
    return np.where(np.isfinite(probabilities), logits, -np.inf)


def _scale(scores: Float32) -> list[float]:
    finite = scores[np.isfinite(scores)].astype(np.float64)
    if not len(finite):
        return [0.0, 1.0]
    return [float(finite.mean()), max(float(finite.std()), 1e-6)]
